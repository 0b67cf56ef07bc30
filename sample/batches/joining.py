"""Join frames in files to one clip, without holding all of them in memory."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from svdjax.media.output_plan import OutputPlan, check_fps, check_frame_size
from svdjax.media.video import as_comment, moved_into_place
from svdjax.media.video_formats import FOLDER, OUTPUT_FORMATS, write_png


@dataclass(frozen=True)
class FrameFiles:
    """Frames that are read when they are needed, for the writers of formats.

    Attributes:
        files: PNG files of one size.
        shape: of all frames, (f, H, W, 3).
    """

    files: Sequence[Path]
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in tqdm(self.files, desc="joining", unit="frame", file=sys.stderr):
            yield _read(file)


def join_frames(plan: OutputPlan, files: Sequence[Path], fps: Any, metadata: Mapping[str, Any]) -> Path:
    """Write a clip from PNG files of `svdjax.media.video.write_video`.

    A folder gets links to the files where the disk can do that, and copies otherwise. Its first frame gets the metadata, the
    others keep theirs.

    Args:
        plan: see `svdjax.media.output_plan.plan_output`.
        files: the frames in time order, of one size.
        fps, metadata: see `svdjax.media.video.write_video`.

    Returns:
        The path written.

    Raises:
        InputError: see `svdjax.media.video.write_video`.
    """
    rate, comment = check_fps(fps, plan.format), as_comment(metadata)
    first = _read(files[0])
    check_frame_size(plan, first.shape[1], first.shape[0])
    with moved_into_place(plan) as temporary:
        if plan.format == FOLDER:
            temporary.mkdir()
            write_png(temporary / _name(0), first, comment)
            for i, file in enumerate(files[1:], 1):
                _link(file, temporary / _name(i))
        else:
            _encode(plan.format, temporary, FrameFiles(files, (len(files), *first.shape)), rate, comment)
    return plan.path


def _encode(kind: str, path: Path, frames: FrameFiles, rate: Fraction, comment: str) -> None:
    # the palette of a gif is that of all frames
    given: Any = np.stack(list(frames)) if kind == ".gif" else frames
    OUTPUT_FORMATS[kind].write(path, given, rate, comment)


def _read(file: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _link(file: Path, new: Path) -> None:
    try:
        os.link(file, new)
    except OSError:
        shutil.copyfile(file, new)


def _name(index: int) -> str:
    return f"{index:04d}.png"
