"""One source read from beginning to end: its frames, size and motion, and whether clips can be drawn from it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from PIL import Image

from svdjax.data.discover import Place
from svdjax.data.readers import reader
from svdjax.data.sources import Source
from svdjax.errors import InputError

MOTION_HEIGHT = 64  # pixels

UNREADABLE = "unreadable"
MIXED_SIZES = "frames of different sizes"
TOO_SHORT = "too short"
STILL = "too little motion"


@dataclass(frozen=True)
class Skipped:
    """What is not used.

    Attributes:
        name, kind: as of a `Source`.
        reason: one of the reasons above.
        detail: what was found, in a few words.
        frames, width, height, motion: as of a `Source`, as far as they are known, else 0.
    """

    name: str
    kind: str
    reason: str
    detail: str
    frames: int = 0
    width: int = 0
    height: int = 0
    motion: float = 0.0


def measure(place: Place, num_frames: int, stride: int, min_motion: float) -> Source | Skipped:
    """Read a source and say whether it can be used.

    **Motion** between two frames is the mean absolute difference of their luma (ITU-R BT.601, 0..255 levels) over all
    pixels, both reduced to 64 pixels in height (area average) where they are higher: so size, noise and fine texture
    matter little. That of a clip is the mean over its `num_frames - 1` pairs of neighbours, `stride` frames apart in the
    source; that of a source is the mean over all of its pairs that far apart. 0 is a still picture, 255 black to white.
    Panning over a photograph by 1 % of its width a frame gives about 3 to 8.

    Args:
        place: what to read.
        num_frames, stride: of a clip.
        min_motion: clips of less are left out.

    Returns:
        A source with at least one clip, or the reason why not.
    """
    try:
        width, height, differences, frames = _read(place, stride)
        size_in_bytes, digest = reader(place.kind).digest(place.path)
    except _MixedSizes as e:
        return Skipped(place.name, place.kind, MIXED_SIZES, str(e))
    except InputError as e:
        return Skipped(place.name, place.kind, UNREADABLE, _without_folder(str(e), place))
    motion = round(float(differences.mean()), 3) if differences.size else 0.0
    known = {"frames": frames, "width": width, "height": height, "motion": motion}
    windows = frames - (num_frames - 1) * stride
    if windows <= 0:
        needed = (num_frames - 1) * stride + 1
        detail = f"{frames} frames, a clip of {num_frames} at stride {stride} needs {needed}"
        return Skipped(place.name, place.kind, TOO_SHORT, detail, **known)
    of_clips = sum(differences[k * stride : k * stride + windows] for k in range(num_frames - 1)) / (num_frames - 1)
    starts = _ranges(of_clips >= min_motion)
    if not starts:
        detail = f"at most {of_clips.max():.2f} levels in a clip, --min-motion is {min_motion:g}"
        return Skipped(place.name, place.kind, STILL, detail, **known)
    return Source(place.name, place.path, place.kind, starts=starts, size_in_bytes=size_in_bytes, digest=digest, **known)


class _MixedSizes(Exception):
    pass


def _read(place: Place, stride: int) -> tuple[int, int, np.ndarray, int]:
    """Width, height, the motion from each frame to the one `stride` later (frames - stride), number of frames."""
    before: deque[np.ndarray] = deque(maxlen=stride)
    differences: list[float] = []
    shape, number = None, -1
    for number, pixels in enumerate(reader(place.kind).frames(place.path)):
        frame = pixels()
        shape = shape or frame.shape
        if frame.shape != shape:
            first, other = (f"{s[1]}x{s[0]}" for s in (shape, frame.shape))
            raise _MixedSizes(f"frame 0 is {first}, frame {number} is {other}")
        luma = _reduced_luma(frame)
        if len(before) == stride:
            differences.append(float(np.abs(luma - before[0]).mean()))
        before.append(luma)
    if shape is None:
        raise InputError(f"{place.path}: holds no frames")
    return shape[1], shape[0], np.asarray(differences), number + 1


def _reduced_luma(frame: np.ndarray) -> np.ndarray:
    """int16, at most 64 high."""
    grey = Image.fromarray(frame).convert("L")
    if grey.height > MOTION_HEIGHT:
        width = max(1, round(grey.width * MOTION_HEIGHT / grey.height))
        grey = grey.resize((width, MOTION_HEIGHT), Image.Resampling.BOX)
    return np.asarray(grey).astype(np.int16)


def _ranges(allowed: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Runs of True as [first, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]]).astype(np.int8)))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


def _without_folder(message: str, place: Place) -> str:
    """A reason without the path that the report names anyway; a frame's own name stays."""
    return message.removeprefix(f"{place.path}: ").removeprefix(f"{place.path}/")
