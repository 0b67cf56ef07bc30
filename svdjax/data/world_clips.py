"""The embedded world as a source of clips, `--data world`. Nothing is stored on disk; frames are drawn when they are read."""

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
from svdjax.runtime import paths
from svdjax.world.drawing import background, draw_on, render, to_uint8
from svdjax.world.scene import FRAMES, SIZE, VERSION, Scene, scene

NAME = "world"  # the value of --data, and the kind of the sources
CLIPS = {"train": 2**20, "validation": 2**10}  # number of clips in each split for training
_MEASURED = 16  # clips from which the motion of a split is measured
_PART = 1024  # largest number of clips per source with --clips; an interrupted latent cache loses at most one source


def is_world(folder: str | os.PathLike[str]) -> bool:
    """Whether `--data` means the embedded world."""
    return os.fspath(folder) == NAME


def data_folder(text: str) -> Path:
    """Parse `--data`: a folder, or the world. A folder with the name `world` is passed as `./world`."""
    path = paths.path(text)
    return path.absolute() if text != NAME and is_world(path) else path


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. `path` is the source's name; frame n is frame n % 8 of its clip n // 8."""
    split, first = split_and_first_clip(path)
    for number in itertools.count(first * FRAMES + start):
        yield functools.partial(_frame, split, number)


def digest(path: str) -> tuple[int, str]:
    """See `svdjax.data.frame_reader.FrameReader`. The hash changes with the world's version and the source's clips."""
    split, first = split_and_first_clip(path)
    clips = f"{split} {first}" if first else split
    return 0, hashlib.sha256(f"svdjax world {VERSION} {clips}".encode()).hexdigest()


def split_and_first_clip(name: str) -> tuple[str, int]:
    """Split and first clip of a source, from its name: `train` begins with clip 0 of the split, `train/1024` with clip 1024."""
    split, _, first = name.partition("/")
    return split, int(first or 0)


def sources(settings: DataSettings) -> list[Source]:
    """The world's training clips, and its validation clips as the last source.

    The training clips are one source. With `settings.clips` they are several sources of almost equal size.

    Raises:
        InputError: a clip of `settings` is longer than the world's clips, or `min_motion` is set.
    """
    if settings.span > FRAMES:
        options = f"--num-frames {settings.num_frames} at --stride {settings.stride}"
        raise InputError(f"{options} takes {settings.span} frames, expected at most the {FRAMES} of the world's clips")
    if settings.min_motion:
        raise InputError(f"--min-motion {settings.min_motion:g} with --data {NAME}: every clip of it moves, expected 0")
    counts = dict(CLIPS)
    if settings.clips:
        parts = -(-settings.clips // _PART)
        edges = [settings.clips * part // parts for part in range(parts + 1)]
        counts = {f"train/{a}": b - a for a, b in itertools.pairwise(edges)} | {"validation": CLIPS["validation"]}
    return [_source(name, count) for name, count in counts.items()]


def _source(name: str, count: int) -> Source:
    size_in_bytes, content = digest(name)
    return Source(
        name=name,
        path=name,
        kind=NAME,
        frames=count * FRAMES,
        width=SIZE,
        height=SIZE,
        motion=_motion(split_and_first_clip(name)[0]),
        starts=((0, count * FRAMES),),
        size_in_bytes=size_in_bytes,
        digest=content,
        spacing=FRAMES,
    )


@functools.lru_cache(maxsize=4)
def _scene_and_background(split: str, number: int) -> tuple[Scene, np.ndarray]:
    clip = scene(split, number)
    return clip, background(clip)


def _frame(split: str, number: int) -> np.ndarray:
    clip, t = divmod(number, FRAMES)
    return to_uint8(draw_on(*_scene_and_background(split, clip), t))


@functools.cache
def _motion(split: str) -> float:
    """See `svdjax.data.motion.measure_source`."""
    luma = np.stack([render(scene(split, i)) for i in range(_MEASURED)]) @ [0.299, 0.587, 0.114]
    return round(float(np.abs(np.diff(luma, axis=1)).mean()), 3)
