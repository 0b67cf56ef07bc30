"""Pairs of keyframes with known frames between them: test clips of the embedded world, or clips of a folder."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.scan import scan
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from svdjax.world.drawing import render
from svdjax.world.scene import FRAMES, SIZE, VERSION, Scene, scene

SPLIT = "test"  # training never reads it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A clip; the methods get its first and last frames.

    Attributes:
        name: name of its folders.
        title: title in `results.json` and on the contact sheet.
        group: the video that the clip comes from; pairs of one group are not independent.
        read: function that returns the clip, uint8 (f, H, W, 3).
        scene: the clip's scene in the embedded world, None for other clips.
    """

    name: str
    title: str
    group: str
    read: Callable[[], np.ndarray]
    scene: Scene | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs, and the facts that identify them, for JSON."""

    pairs: list[Pair]
    identity: dict[str, Any]


def of_world(count: int, first: int = 0) -> Pairs:
    """Clips `first`, `first + 1`, ... of the embedded world's test split."""
    pairs = []
    for number in range(first, first + count):
        clip = scene(SPLIT, number)
        title = f"{SPLIT} {number}: {clip.kind}"
        read = functools.partial(render, clip)
        pairs.append(Pair(name=f"{number:04d}", title=title, group=title, read=read, scene=clip))
    return Pairs(pairs, {"data": "the embedded world", "version": VERSION, "split": SPLIT})


def of_folder(settings: DataSettings, count: int, seed: int) -> Pairs:
    """Distinct clips of a folder with videos or folders of frames, in the random order of training.

    Raises:
        InputError: the folder has no usable clips, or fewer than `count`.
    """
    scanned = scan(settings)
    available = sum(source.clips for source in scanned.usable)
    if available < count:
        raise InputError(
            f"--pairs {count}: {settings.folder} has {available} clip{'s' * (available != 1)} of {settings.num_frames} frames "
            f"at stride {settings.stride}, including overlapping ones"
        )
    order = Order(scanned.usable, settings, seed)
    clips: dict[str, Clip] = {}
    for position in itertools.count():
        clip = order.clip(position)
        clips.setdefault(clip.name, clip)
        if len(clips) == count:
            break
    pairs = [
        Pair(name=f"{number:04d}", title=title, group=clip.source.name, read=functools.partial(_read, clip, settings))
        for number, (title, clip) in enumerate(clips.items())
    ]
    identity = {"data": scanned.fingerprint, "stride": settings.stride, "fit": settings.fit, "pairs' seed": seed}
    return Pairs(pairs, identity)


def _read(clip: Clip, settings: DataSettings) -> np.ndarray:
    return read_clip(clip.source, clip.start, clip.num_frames, clip.stride, settings.size, settings.fit)


def check_world_shape(num_frames: int, size: tuple[int, int]) -> None:
    """Refuse another number of frames or another size, (width, height), than the embedded world's."""
    if (num_frames, size) != (FRAMES, (SIZE, SIZE)):
        requested = f"{num_frames} frames of {size[0]}x{size[1]}"
        raise InputError(f"the embedded world has {FRAMES} frames of {SIZE}x{SIZE}, not {requested}: give --data DIR")
