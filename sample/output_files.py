"""Output files of the sampling commands: a failing file costs no other, and none replaces an input."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.media.output_plan import FRAME_NAME, OutputPlan
from svdjax.media.video_formats import FOLDER
from svdjax.runtime import cli
from svdjax.runtime.atomic import new_file


class Outputs:
    """Write files one after the other; when one fails, the others are still written.

    Each file is written in a block of `attempt`; `finish` then raises one error for all files that failed.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Remember the block's `InputError` or `OSError` instead of raising it."""
        try:
            yield
        except (InputError, OSError) as e:
            self.failures.append(cli.describe(e) or one_line(e))

    def finish(self) -> None:
        """Raise `InputError` if any file failed."""
        if self.failures:
            raise InputError("; ".join(self.failures))


def check_apart(output: OutputPlan, files: Mapping[str, Path | None], inputs: Iterable[str | Path]) -> None:
    """Refuse outputs that would replace an input or each other.

    Args:
        output: of the video.
        files: further output files by their option; None was not requested.
        inputs: files that the command reads.

    Raises:
        InputError: an output that is an input, or that lies in the folder of the video's frames.
    """
    video = os.path.realpath(output.path)
    requested = {f"{option} {path}": os.path.realpath(path) for option, path in files.items() if path is not None}
    for name, path in requested.items():
        if output.format == FOLDER and os.path.dirname(path) == video:
            raise InputError(f"{name}: lies in the folder of the frames, expected another folder")
    for given in inputs:
        read = os.path.realpath(given)
        frame = output.format == FOLDER and os.path.dirname(read) == video and FRAME_NAME.fullmatch(os.path.basename(read))
        if frame or read == video:
            raise InputError(f"{output.path}: would replace the input {given}, expected another output")
        for name, path in requested.items():
            if path == read:
                raise InputError(f"{name}: is an input, expected another file")


def write_latents(path: Path, latents: np.ndarray) -> None:
    """Write one array, `latents`: (f, h, w, c), or (n, f, h, w, c) of n clips.

    Raises:
        InputError: the file can't be written.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, latents=latents)
