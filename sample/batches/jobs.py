"""Clips of a batch: each a checked command line of `sample.interpolate`, and whether its file is there already."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from sample import interpolation_options
from sample.batches.metadata import KEYFRAMES_HASH, difference, first_frame, hash_of, newer_than
from sample.batches.pairs_file import Row
from sample.batches.request import CheckedOptions, InterpolationRequest
from svdjax import chain
from svdjax.errors import InputError
from svdjax.media import fit, images, video
from svdjax.media.output_plan import FRAME_NAME
from svdjax.media.video_formats import FOLDER
from svdjax.model_sources import ModelSource
from svdjax.runtime import cli
from svdjax.runtime.output_paths import check_writable

Find = Callable[[str], ModelSource]  # the model for a method
Stamp = tuple[int, ...] | None  # of a file; None if it isn't there


@dataclass(frozen=True, kw_only=True)
class Job:
    """A clip to make.

    Attributes:
        label: its row, for messages.
        args: its options, with the size that it will have.
        source: the model.
        checked: what is known of it before its keyframes are read.
        target: the absolute path of its video.
        before: the stamp of `target` when the run began: a file with another stamp was made by another process.
    """

    label: str
    args: argparse.Namespace
    source: ModelSource
    checked: CheckedOptions
    target: Path
    before: Stamp = None

    def done(self) -> bool:
        """Whether another process has made the video since this run began."""
        return (now := stamp(self.target)) is not None and now != self.before

    def request(self) -> InterpolationRequest:
        """Read the keyframes."""
        return interpolation_options.request_of(self.args, self.source, with_mesh=False)


@dataclass
class Checked:
    """The checked rows of a batch.

    Attributes:
        jobs: the clips to make.
        done: number of rows with a video of the same settings and keyframes.
        errors: a line for each row that can't be used.
        created: folders that were created for outputs.
    """

    jobs: list[Job] = field(default_factory=list)
    done: int = 0
    errors: list[str] = field(default_factory=list)
    created: list[Path] = field(default_factory=list)

    def remove_unused(self) -> None:
        """Remove the created folders that are empty."""
        for folder in self.created:
            with contextlib.suppress(OSError):
                folder.rmdir()


def check_rows(rows: Sequence[Row], find: Find) -> Checked:
    """Check options, files, sizes and outputs of every row, as far as that needs no pixels. Creates folders of outputs."""
    found = Checked()
    checker = _Checker(find, _inputs(row.args for row in rows if row.args is not None), found.created)
    for row in tqdm(rows, desc="checking", unit="pair", file=sys.stderr, leave=False, disable=len(rows) < 100):
        try:
            if row.args is None:
                raise InputError(row.error)
            job = checker.check(row.label, row.args)
        except (InputError, OSError) as e:
            found.errors.append(f"{row.label}: {cli.describe(e) or e}")
            continue
        if job is None:
            found.done += 1
        else:
            found.jobs.append(job)
    return found


def stamp(path: Path) -> Stamp:
    """Changes whenever a video is written again."""
    try:
        status = first_frame(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def is_current(path: Path, checked: CheckedOptions, keyframes: list[str], fitted: str) -> str | None:
    """How a video differs from the one that a row would give; None if it doesn't.

    Args:
        path: of the video.
        checked: of the row.
        keyframes: files of its keyframes. They are read only if they may have changed since the video was written.
        fitted: how they are fitted to the size.

    Raises:
        InputError: a file can't be read.
    """
    if (differs := difference(path, checked.metadata)) is not None:
        return differs
    if not newer_than(path, keyframes):
        return None
    loaded, _ = images.load_keyframes(keyframes)
    same = hash_of([fit.fit(image, checked.size, fitted) for image in loaded])
    return None if video.read_metadata(path).get(KEYFRAMES_HASH) == same else "made from other keyframes"


def _inputs(rows: Iterable[argparse.Namespace]) -> dict[str, str]:
    """Every keyframe's real path, and the folders of keyframes that are named like frames of a video; with its name."""
    inputs: dict[str, str] = {}
    for args in rows:
        for file in args.keyframes:
            inputs[real := os.path.realpath(file)] = file
            if FRAME_NAME.fullmatch(os.path.basename(real)):
                inputs[os.path.dirname(real)] = file
    return inputs


class _Checker:
    """Checks rows; what many rows share is checked once.

    Args:
        find: returns the model for a method.
        inputs: from `_inputs`.
        created: gets the folders that are created.
    """

    def __init__(self, find: Find, inputs: dict[str, str], created: list[Path]):
        self._find, self._inputs, self._created = find, inputs, created
        self._targets: dict[str, str] = {}
        self._writable = functools.cache(check_writable)
        self._shape = functools.cache(images.read_shape)

    def check(self, label: str, args: argparse.Namespace) -> Job | None:
        """The job of a row; None if its video is there."""
        interpolation_options.check_arguments(args)
        source = self._find(args.method or "dual")
        shapes = [self._shape(file) for file in args.keyframes]
        parent = Path(os.path.abspath(args.out)).parent
        if not parent.exists() and parent.parent.is_dir():
            parent.mkdir(exist_ok=True)
            self._created.append(parent)
        replacing = copy.copy(args)
        replacing.overwrite = True
        checked = interpolation_options.check(replacing, source, shapes[0], probe=False)
        target = checked.output.path
        self._check_apart(label, args.out, target, checked.output.format == FOLDER)
        chain.check_chain(args.keyframes, checked.method, args.loop, args.keep_keyframes, names=("loop", "keep-keyframes"))
        before = stamp(target)
        if before is not None:
            differs = is_current(target, checked, args.keyframes, args.fit)
            if differs is None:
                return None
            if not args.overwrite:
                raise InputError(f"{args.out}: exists already, {differs} (--overwrite replaces it)")
        elif not args.overwrite:  # its other files
            interpolation_options.plan_outputs(args, checked.size, probe=False)
        self._writable(parent)
        args = copy.copy(args)
        args.size = "x".join(map(str, checked.size))
        return Job(label=label, args=args, source=source, checked=checked, target=target, before=before)

    def _check_apart(self, label: str, name: str, target: Path, folder: bool) -> None:
        """Refuse an output that would replace another row's output or keyframe."""
        real = os.path.realpath(target)
        if real in self._inputs and (folder or not os.path.isdir(real)):
            raise InputError(f"{name}: would replace the keyframe {self._inputs[real]}, expected another output")
        if (other := self._targets.setdefault(real, label)) != label:
            raise InputError(f"{name}: is also the output of {other}, expected another")
