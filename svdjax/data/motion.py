"""Size, motion, scene cuts and usable clips of a source, measured by reading it from beginning to end."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from svdjax.data.discover import Candidate
from svdjax.data.readers import reader
from svdjax.data.sources import Source
from svdjax.errors import InputError, one_line
from svdjax.media.scene_cuts import DETECT, CutFinder

MOTION_HEIGHT = 64  # pixels

UNREADABLE = "unreadable"
MIXED_SIZES = "frames of different sizes"
TOO_SHORT = "too short"
STILL = "too little motion"
CUT = "scene cuts"

Cuts = Sequence[int] | str  # the first frame of every scene but the first, or `scene_cuts.DETECT`


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A source that can't be used.

    Attributes:
        name, kind: see `Source`.
        reason: `UNREADABLE`, `MIXED_SIZES`, `TOO_SHORT`, `CUT` or `STILL`.
        detail: what was found, in a few words.
        frames, width, height, motion: see `Source`; 0 if unknown.
    """

    name: str
    kind: str
    reason: str
    detail: str
    frames: int = 0
    width: int = 0
    height: int = 0
    motion: float = 0.0


def measure_source(candidate: Candidate, num_frames: int, stride: int, min_motion: float, cuts: Cuts = ()) -> Source | Skipped:
    """Read a source, measure its motion and decide whether it can be used.

    **Motion** between two frames is the mean absolute difference of their luma (ITU-R BT.601, levels 0..255) over all pixels.
    Frames higher than 64 pixels are first reduced to that height (area average), so that size, noise and fine texture matter
    little. The motion of a clip is the mean over its `num_frames - 1` pairs of neighbouring frames, which are `stride` frames
    apart in the source; the motion of a source is the mean over all its pairs at that distance. A still picture has 0, a
    change from black to white 255. Panning over a photograph by 1 % of its width per frame gives about 3 to 8.

    Args:
        candidate: to read.
        num_frames, stride: of a clip.
        min_motion: clips with less motion are left out.
        cuts: clips across a scene cut are left out; `DETECT` finds the cuts.

    Returns:
        A source with at least one clip, or the reason for skipping it.
    """
    skipped = functools.partial(Skipped, name=candidate.name, kind=candidate.kind)
    try:
        width, height, differences, frames, cuts = _read(candidate, stride, cuts)
        size_in_bytes, digest = reader(candidate.kind).digest(candidate.path)
    except _MixedSizes as e:
        return skipped(reason=MIXED_SIZES, detail=str(e))
    except InputError as e:
        return skipped(reason=UNREADABLE, detail=one_line(_without_folder(str(e), candidate)))
    except Exception as e:  # decoders raise nearly any kind of exception on damaged data: one source must not end a run
        return skipped(reason=UNREADABLE, detail=f"can't be read ({type(e).__name__}: {one_line(e, 160)})")
    motion = round(float(differences.mean()), 3) if differences.size else 0.0
    skipped = functools.partial(skipped, frames=frames, width=width, height=height, motion=motion)
    windows = frames - (num_frames - 1) * stride
    if windows <= 0:
        needed = (num_frames - 1) * stride + 1
        return skipped(reason=TOO_SHORT, detail=f"{frames} frames, a clip of {num_frames} at stride {stride} needs {needed}")
    pairs = (differences[k * stride : k * stride + windows] for k in range(num_frames - 1))
    clip_motion = sum(pairs, np.zeros(windows)) / (num_frames - 1)
    within = np.ones(windows, bool)
    for cut in cuts:
        within[max(0, cut - (frames - windows)) : cut] = False  # these clips begin before the cut and end at it or later
    if not within.any():
        detail = f"{len(cuts)} cut{'s' * (len(cuts) != 1)}, no clip of {num_frames} frames between them"
        return skipped(reason=CUT, detail=detail)
    starts = _ranges(within & (clip_motion >= min_motion))
    if not starts:
        detail = f"at most {clip_motion[within].max():.2f} levels in a clip, --min-motion is {min_motion:g}"
        return skipped(reason=STILL, detail=detail)
    return Source(
        name=candidate.name,
        path=candidate.path,
        kind=candidate.kind,
        frames=frames,
        width=width,
        height=height,
        motion=motion,
        starts=starts,
        size_in_bytes=size_in_bytes,
        digest=digest,
    )


class _MixedSizes(Exception):
    pass


def _read(candidate: Candidate, stride: int, cuts: Cuts) -> tuple[int, int, np.ndarray, int, Sequence[int]]:
    """Width, height, motion from each frame to the frame `stride` later (frames - stride,), number of frames, cuts."""
    finder = CutFinder() if cuts == DETECT else None
    before: deque[np.ndarray] = deque(maxlen=stride)
    differences: list[float] = []
    shape, number = None, -1
    for number, pixels in enumerate(reader(candidate.kind).frames(candidate.path)):
        frame = pixels()
        shape = shape or frame.shape
        if frame.shape != shape:
            first, other = (f"{s[1]}x{s[0]}" for s in (shape, frame.shape))
            raise _MixedSizes(f"frame 0 is {first}, frame {number} is {other}")
        if finder is not None:
            finder.add(frame)
        luma = _reduced_luma(frame)
        if len(before) == stride:
            differences.append(float(np.abs(luma - before[0]).mean()))
        before.append(luma)
    if shape is None:
        raise InputError(f"{candidate.path}: holds no frames")
    found = finder.cuts() if finder is not None else cuts
    assert not isinstance(found, str)
    return shape[1], shape[0], np.asarray(differences), number + 1, found


def _reduced_luma(frame: np.ndarray) -> np.ndarray:
    """Luma of a frame, reduced to at most 64 pixels of height: int16 (h, w)."""
    grey = Image.fromarray(frame).convert("L")
    if grey.height > MOTION_HEIGHT:
        width = max(1, round(grey.width * MOTION_HEIGHT / grey.height))
        grey = grey.resize((width, MOTION_HEIGHT), Image.Resampling.BOX)
    return np.asarray(grey).astype(np.int16)


def _ranges(allowed: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Runs of True as [first, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], allowed, [False]]).astype(np.int8)))
    return tuple((int(first), int(end)) for first, end in edges.reshape(-1, 2))


def _without_folder(message: str, candidate: Candidate) -> str:
    """Remove the source's own path, which the report names anyway; the name of a frame inside it stays."""
    return message.removeprefix(f"{candidate.path}: ").removeprefix(f"{candidate.path}/")
