"""`--frames-in`: numbered frames of a folder, and the joining of the clips between them."""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sample import interpolation_options
from sample.batches import joining
from sample.batches.jobs import Find, Stamp, stamp
from sample.batches.metadata import KEYFRAMES_HASH, difference, hash_of, newer_than
from sample.batches.options import FRAMES_IN
from sample.batches.pairs_file import Row
from sample.batches.request import CheckedOptions
from svdjax.errors import InputError
from svdjax.frame_rate.windows import frames_at_rate
from svdjax.media import fit, images, video
from svdjax.media.output_plan import OutputPlan

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".avif", ".jp2", ".heic", ".heif")
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The frames of a folder and the one output.

    Attributes:
        files: in the order of their numbers.
        checked: the options of the whole output.
        rows: the clips between neighbours, in a folder beside the output.
        folder: of the clips.
        loop: whether the last frame leads back to the first.
        frames: of a clip.
        before: the stamp of the output when the run began.
        fitted: how frames are fitted to the size.
    """

    files: list[str]
    checked: CheckedOptions
    rows: list[Row]
    folder: Path
    loop: bool
    frames: int
    before: Stamp
    fitted: str

    @property
    def output(self) -> OutputPlan:
        return self.checked.output

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the output, without the hash of its keyframes."""
        names = [os.path.basename(self.files[0]), os.path.basename(self.files[-1])]
        return self.checked.metadata | {"keyframes": f"{names[0]} to {names[1]}, {len(self.files)} frames"}

    def done(self) -> bool:
        """Whether another process has written the output since this run began."""
        return (now := stamp(self.output.path)) is not None and now != self.before

    def differs(self) -> str | None:
        """How the existing output differs from this one; None if it doesn't."""
        if (differs := difference(self.output.path, self.metadata)) is not None:
            return differs
        if not newer_than(self.output.path, self.files):
            return None
        fitted = (fit.fit(images.load_image(file)[0], self.checked.size, self.fitted) for file in self.files)
        hashes = [hash_of(list(pair)) for pair in itertools.pairwise(fitted)]
        if self.loop:
            first, last = (images.load_image(file)[0] for file in (self.files[0], self.files[-1]))
            hashes.append(hash_of([fit.fit(image, self.checked.size, self.fitted) for image in (last, first)]))
        same = video.read_metadata(self.output.path).get(KEYFRAMES_HASH) == _joined_hash(hashes)
        return None if same else "made from other frames"

    def join(self) -> None:
        """Write the output from the clips, and remove them."""
        clips = [Path(row.args.out) for row in self.rows if row.args is not None]
        names = [f"{i:04d}.png" for i in range(self.frames)]
        files = [clip / name for number, clip in enumerate(clips) for name in (names[1:] if number else names)]
        hashes = [video.read_metadata(clip).get(KEYFRAMES_HASH, "") for clip in clips]
        metadata = self.metadata | {KEYFRAMES_HASH: _joined_hash(hashes)}
        joining.join_frames(self.output, files[:-1] if self.loop else files, self.checked.rate, metadata)
        for clip in clips:
            shutil.rmtree(clip, ignore_errors=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def plan(args: argparse.Namespace, find: Find) -> tuple[Footage, list[str]]:
    """The clips between the frames of `--frames-in`; also notes for the user.

    Raises:
        InputError: no sequence of frames, options that can't be used, or an output that may not be written.
    """
    files, notes = frames_of(args.frames_in)
    whole = copy.copy(args)
    whole.keyframes, whole.frames_in, whole.overwrite = files, None, True
    interpolation_options.check_arguments(whole)
    checked = interpolation_options.check(whole, find(args.method or "dual"), images.read_shape(files[0]))
    target = checked.output.path
    folder = target.with_name(f"{target.stem if target.suffix else target.name}-clips")
    pairs = list(itertools.pairwise([*files, files[0]] if args.loop else files))
    rows = []
    for pair in pairs:
        own = copy.copy(whole)
        own.keyframes, own.loop, own.overwrite = list(pair), False, args.overwrite
        own.out = f"{folder / Path(pair[0]).stem}{os.sep}"
        own.size = "x".join(map(str, checked.size))
        rows.append(Row(f"{pair[0]} to {pair[1]}", own))
    frames = frames_at_rate(checked.settings.num_frames, args.rate)
    return Footage(
        files=files,
        checked=checked,
        rows=rows,
        folder=folder,
        loop=args.loop,
        frames=frames,
        before=stamp(target),
        fitted=args.fit,
    ), notes


def frames_of(folder: Path) -> tuple[list[str], list[str]]:
    """The numbered images of a folder in the order of their numbers, and notes for the user.

    Raises:
        InputError: not a folder; fewer than two such images, two with one number, or names that begin differently.
    """
    where = f"{FRAMES_IN} {folder}"
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(ENDINGS))
    except OSError as e:
        raise InputError(f"{where}: can't be read ({e.strerror or e}), expected a folder of numbered frames") from None
    numbers: dict[int, str] = {}
    prefixes: dict[str, str] = {}
    others = []
    for name in names:
        match = _NUMBERED.fullmatch(os.path.splitext(name)[0])
        if match is None or name.startswith("."):
            others.append(name)
            continue
        number = int(match[2])
        if number in numbers:
            raise InputError(f"{where}: {numbers[number]} and {name} have the same number, expected one sequence")
        numbers[number] = prefixes[match[1]] = name
    if len(prefixes) > 1:
        first, second = list(prefixes.values())[:2]
        raise InputError(f"{where}: {first} and {second} begin differently, expected one sequence")
    if len(numbers) < 2:
        raise InputError(f"{where}: {len(numbers)} numbered images, expected at least two, such as 0001.png and 0002.png")
    ordered = sorted(numbers)
    notes = [f"{folder}: {name} has no number and is left out" for name in others[:1]]
    gaps = [(a, b) for a, b in itertools.pairwise(ordered) if b - a != ordered[1] - ordered[0]]
    if gaps:
        a, b = gaps[0]
        notes.append(f"{folder}: the numbers have {len(gaps)} gaps, such as after {numbers[a]}: {numbers[b]} is its neighbour")
    return [os.path.join(folder, numbers[number]) for number in ordered], notes


def _joined_hash(hashes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]
