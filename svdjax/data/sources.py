"""What training reads: its settings, the sources of a data folder, and the clips in them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError
from svdjax.media.fit import FITS


@dataclass(frozen=True)
class DataSettings:
    """Which clips are made of a data folder.

    Attributes:
        folder: of videos and of sub-folders of frames, searched recursively; or `world`, the embedded one.
        num_frames: f, frames of a clip.
        size: (width, height) of the clips, pixels.
        stride: every how many frames one is taken. More is a lower frame rate and larger motion between frames.
        fit: how frames of another shape are brought to `size`: see `svdjax.media.fit.fit`.
        min_motion: clips whose mean motion (`svdjax.data.motion.measure`) is below are left out; 0 keeps all.
        hold_out: how many sources, the last ones, are kept out of training.
        clips: of the embedded world, how many of its training clips there are; None is all.

    Raises:
        InputError: a value out of its range; the message names the option.
    """

    folder: str | os.PathLike[str]
    num_frames: int
    size: tuple[int, int]
    stride: int = 1
    fit: str = "crop"
    min_motion: float = 0.0
    hold_out: int = 0
    clips: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))  # JSON gives a list
        for name, value, least in (
            ("--num-frames", self.num_frames, 2),
            ("--stride", self.stride, 1),
            ("--hold-out", self.hold_out, 0),
            ("--size", min(self.size), 1),
        ):
            if value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        if not (math.isfinite(self.min_motion) and self.min_motion >= 0):
            raise InputError(f"--min-motion is {self.min_motion}, expected a number of at least 0")
        if self.fit not in FITS:
            raise InputError(f"--fit is {self.fit!r}, expected one of {', '.join(FITS)}")

    @property
    def span(self) -> int:
        """Frames of a source from the first to the last of a clip, both counted."""
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True)
class Source:
    """A video or folder of frames that clips can be drawn from.

    Attributes:
        name: path relative to the data folder, with `/`.
        path: where this process reads it.
        kind: a key of `svdjax.data.readers.READERS`.
        frames: how many were decoded.
        width, height: pixels, as it is shown.
        motion: mean over the whole source, in levels (`svdjax.data.motion.measure`).
        starts: frames at which a clip can start, as ranges [first, end).
        size_in_bytes: on disk.
        digest: SHA-256 of the content.
        spacing: of the frames in `starts`, every how many one is a start.
    """

    name: str
    path: str
    kind: str
    frames: int
    width: int
    height: int
    motion: float
    starts: tuple[tuple[int, int], ...]
    size_in_bytes: int
    digest: str
    spacing: int = 1

    @property
    def clips(self) -> int:
        """How many different clips there are, overlapping ones included."""
        return sum(len(range(first, end, self.spacing)) for first, end in self.starts)

    def start(self, number: int) -> int:
        """The first frame of clip `number`, counted from 0."""
        for first, end in self.starts:
            within = range(first, end, self.spacing)
            if number < len(within):
                return within[number]
            number -= len(within)
        raise IndexError(f"{self.name} has {self.clips} clips")

    @property
    def fingerprint(self) -> str:
        """Tells name, kind, size, number of frames and content, not where it lies."""
        return fingerprint([self.name, self.kind, self.size_in_bytes, self.frames, self.digest])


@dataclass(frozen=True)
class Clip:
    """Frames `start`, `start + stride`, ... of a source, `num_frames` of them."""

    source: Source
    start: int
    num_frames: int
    stride: int = 1

    @property
    def frames(self) -> range:
        return range(self.start, self.start + self.num_frames * self.stride, self.stride)

    @property
    def name(self) -> str:
        """Such as `clips/cat.mp4 frames 12-25`, or `... 12-38 by 2`: numbers from 0, the last one included."""
        step = f" by {self.stride}" if self.stride > 1 else ""
        return f"{self.source.name} frames {self.start}-{self.frames[-1]}{step}"


def fingerprint(value: object) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """The data folder as an absolute path.

    Raises:
        InputError: it doesn't exist, is a file, or is empty.
    """
    path = Path(os.path.abspath(folder))
    if not os.path.exists(path):  # pathlib's raises where a folder above may not be entered
        raise InputError(f"{folder}: no such folder, expected one of videos or of sub-folders of frames")
    if not path.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder of videos or of sub-folders of frames")
    try:
        if not any(path.iterdir()):
            raise InputError(f"{folder}: the folder is empty, expected videos or sub-folders of frames")
    except OSError as e:
        raise InputError(f"{folder}: can't be read ({e.strerror or e})") from None
    return path


def check_apart(out: Path, data: Path) -> None:
    """Refuse a run's folder within the data, where its pictures would be read as data.

    Raises:
        InputError: it is there.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise InputError(
            f"--out {out}: lies in --data {data}, where the run's pictures would be read as data; expected elsewhere"
        )
