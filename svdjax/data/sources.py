"""Data settings, the sources in a data folder, and the clips in a source."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError
from svdjax.media.fit import FITS


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data folder, and the clips to draw from it.

    Attributes:
        folder: folder of videos and of sub-folders of frames, searched recursively; or `world` for the embedded world.
        num_frames: f, frames per clip.
        size: (width, height) of the clips, pixels.
        stride: use every `stride`-th frame. A larger stride is a lower frame rate, with more motion between frames.
        fit: how frames of another size are fitted: the `mode` of `svdjax.media.fit.fit`.
        min_motion: clips with less motion, in levels (`svdjax.data.motion.measure_source`), are left out; 0 keeps all.
        hold_out: number of sources at the end of the list that are kept out of training.
        clips: number of training clips of the embedded world; None for all.

    Raises:
        InputError: a value is out of range; the message names the option.
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
        """Frames of the source from the first to the last frame of a clip, both included."""
        return (self.num_frames - 1) * self.stride + 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video or folder of frames from which clips can be drawn.

    Attributes:
        name: path relative to the data folder, with `/`; for the embedded world, its split and first clip
            (`svdjax.data.world_clips.split_and_first_clip`).
        path: absolute path in this process; for the embedded world, the name.
        kind: a key of `svdjax.data.readers.READERS`.
        frames: number of decoded frames.
        width, height: pixels, after rotation.
        motion: mean motion of the whole source, in levels (`svdjax.data.motion.measure_source`).
        starts: possible first frames of a clip, as ranges [first, end).
        size_in_bytes: on disk.
        digest: SHA-256 of the content.
        spacing: only every `spacing`-th frame of a range in `starts` is a start.
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
        """Number of different clips, overlapping ones included."""
        return sum(len(range(first, end, self.spacing)) for first, end in self.starts)

    def start(self, number: int) -> int:
        """Number of the first frame of clip `number`. Both count from 0."""
        for first, end in self.starts:
            within = range(first, end, self.spacing)
            if number < len(within):
                return within[number]
            number -= len(within)
        raise IndexError(f"{self.name} has {self.clips} clips")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of name, kind, size, number of frames and content. The path has no influence."""
        return fingerprint([self.name, self.kind, self.size_in_bytes, self.frames, self.digest])


@dataclass(frozen=True)
class Clip:
    """`num_frames` frames of a source: `start`, `start + stride`, ..."""

    source: Source
    start: int
    num_frames: int
    stride: int = 1

    @property
    def frames(self) -> range:
        return range(self.start, self.start + self.num_frames * self.stride, self.stride)

    @property
    def name(self) -> str:
        """Such as `clips/cat.mp4 frames 12-25`, or `... 12-38 by 2`: first and last frame, from 0."""
        step = f" by {self.stride}" if self.stride > 1 else ""
        return f"{self.source.name} frames {self.start}-{self.frames[-1]}{step}"


def fingerprint(value: object) -> str:
    """SHA-256 of a value that JSON can represent."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Check the data folder and return its absolute path.

    Raises:
        InputError: it doesn't exist, is a file, is empty, or can't be read.
    """
    path = Path(os.path.abspath(folder))
    if not os.path.exists(path):  # Path.exists raises if a parent folder may not be entered
        raise InputError(f"{folder}: no such folder, expected a folder of videos or of sub-folders of frames")
    if not path.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder of videos or of sub-folders of frames")
    try:
        if not any(path.iterdir()):
            raise InputError(f"{folder}: the folder is empty, expected videos or sub-folders of frames")
    except OSError as e:
        raise InputError(f"{folder}: can't be read ({e.strerror or e})") from None
    return path


def check_outside_data(out: Path, data: Path) -> None:
    """Refuse an output folder inside the data folder.

    Raises:
        InputError: it is inside.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise InputError(f"--out {out}: lies in --data {data}, its images would be read as data; expected a folder outside it")
