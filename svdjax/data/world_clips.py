"""The embedded world as a source of clips: `--data world`. Nothing lies on disk; frames are drawn when they are read."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from svdjax.data.frame_reader import Pixels
from svdjax.data.sources import DataSettings, Source
from svdjax.errors import InputError
from svdjax.world.drawing import background, draw_on, render, to_levels
from svdjax.world.scene import FRAMES, SIZE, VERSION, Scene, scene

NAME = "world"  # what is said instead of a folder
CLIPS = {"train": 2**20, "validation": 2**10}  # of each split that training reads, one after the other
_MEASURED = 16  # clips whose motion is that of all
_PART = 1024  # clips, at most, of a source that is one of several: what of a cache is lost where its making is interrupted


def is_meant(folder: str | os.PathLike[str]) -> bool:
    """Whether the data is the world."""
    return os.fspath(folder) == NAME


def data_folder(text: str) -> Path:
    """What `--data` says: a folder, or the world; a folder of that name is given as `./world`."""
    path = Path(text)
    return path.absolute() if text != NAME and is_meant(path) else path


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`; `path` is read by `place_in_world`, frame n is frame n % 8 of clip n // 8."""
    split, first = place_in_world(path)
    for number in itertools.count(first * FRAMES + start):
        yield functools.partial(_frame, split, number)


def digest(path: str) -> tuple[int, str]:
    """No bytes on disk, and what changes with the clips."""
    split, first = place_in_world(path)
    which = f"{split} {first}" if first else split
    return 0, hashlib.sha256(f"svdjax world {VERSION} {which}".encode()).hexdigest()


def place_in_world(path: str) -> tuple[str, int]:
    """The split and the first clip, which are the last parts of a source's path: `train`, or `train/1024`."""
    *_, before, last = path.replace(os.sep, "/").split("/")
    return (last, 0) if last in CLIPS else (before, int(last))


def sources(settings: DataSettings) -> list[Source]:
    """The world's training clips, as one source or, where not all are wanted, as several of almost one size; its validation
    clips as the last.

    Raises:
        InputError: clips that it hasn't.
    """
    if settings.span > FRAMES:
        said = f"--num-frames {settings.num_frames} at --stride {settings.stride}"
        raise InputError(f"{said} takes {settings.span} frames, expected at most the {FRAMES} of the world's clips")
    if settings.min_motion:
        raise InputError(f"--min-motion {settings.min_motion:g} with --data {NAME}: everything in it moves, expected none")
    counts = dict(CLIPS)
    if settings.clips:
        parts = -(-settings.clips // _PART)
        edges = [settings.clips * part // parts for part in range(parts + 1)]
        counts = {f"train/{a}": b - a for a, b in itertools.pairwise(edges)} | {"validation": CLIPS["validation"]}
    found = []
    for name, count in counts.items():
        path = os.path.abspath(os.path.join(NAME, name))
        size, content = digest(path)
        motion, starts = _motion(place_in_world(path)[0]), ((0, count * FRAMES),)
        found.append(Source(name, path, NAME, count * FRAMES, SIZE, SIZE, motion, starts, size, content, FRAMES))
    return found


@functools.lru_cache(maxsize=4)
def _scene(split: str, number: int) -> tuple[Scene, np.ndarray]:
    found = scene(split, number)
    return found, background(found)


def _frame(split: str, number: int) -> np.ndarray:
    clip, t = divmod(number, FRAMES)
    return to_levels(draw_on(*_scene(split, clip), t))


@functools.cache
def _motion(split: str) -> float:
    """As `svdjax.data.motion.measure` defines it."""
    luma = np.stack([render(scene(split, i)) for i in range(_MEASURED)]) @ [0.299, 0.587, 0.114]
    return round(float(np.abs(np.diff(luma, axis=1)).mean()), 3)
