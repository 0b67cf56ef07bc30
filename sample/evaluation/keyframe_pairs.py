"""Pairs of keyframes whose frames between are known: clips of the embedded world that no training sees, or of a folder."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.scan import scan
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from svdjax.world.drawing import render
from svdjax.world.scene import FRAMES, SIZE, VERSION, Scene, scene

SPLIT = "test"


@dataclass(frozen=True)
class Pair:
    """A clip, of which the methods see the first and the last frame.

    Attributes:
        name: of its folders.
        title: for people.
        group: what it shares with pairs that are not independent of it: the video that it is from.
        read: gives the clip, uint8 (f, H, W, 3).
        scene: of the embedded world, else None.
    """

    name: str
    title: str
    group: str
    read: Callable[[], np.ndarray]
    scene: Scene | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs, and what tells them from others, for JSON."""

    pairs: list[Pair]
    identity: dict[str, Any]


def of_world(count: int, first: int = 0) -> Pairs:
    """Clips of the split that training never reads."""
    pairs = []
    for number in range(first, first + count):
        found = scene(SPLIT, number)
        title = f"{SPLIT} {number}: {found.kind}"
        pairs.append(Pair(f"{number:04d}", title, title, functools.partial(render, found), found))
    return Pairs(pairs, {"data": "the embedded world", "version": VERSION, "split": SPLIT})


def of_folder(settings: DataSettings, count: int, seed: int) -> Pairs:
    """Different clips of a folder of videos or frames, drawn as training draws them.

    Raises:
        InputError: nothing in it can be used, or it has fewer clips.
    """
    found = scan(settings)
    there = sum(source.clips for source in found.usable)
    if there < count:
        raise InputError(
            f"--pairs {count}: {settings.folder} has {there} clip{'s' * (there != 1)} of {settings.num_frames} frames "
            f"at stride {settings.stride}, overlapping ones included"
        )
    order = Order(found.usable, settings, seed)
    clips: dict[str, Clip] = {}
    for position in itertools.count():
        clip = order.clip(position)
        clips.setdefault(clip.name, clip)
        if len(clips) == count:
            break
    pairs = [
        Pair(f"{number:04d}", name, clip.source.name, functools.partial(_read, clip, settings))
        for number, (name, clip) in enumerate(clips.items())
    ]
    identity = {"data": found.fingerprint, "stride": settings.stride, "fit": settings.fit, "pairs' seed": seed}
    return Pairs(pairs, identity)


def _read(clip: Clip, settings: DataSettings) -> np.ndarray:
    return read_clip(clip.source, clip.start, clip.num_frames, clip.stride, settings.size, settings.fit)


def check_world(num_frames: int, size: tuple[int, int], data: Path | None) -> None:
    """Refuse a model of other clips than the world's, where they are what it is measured on."""
    if data is None and (num_frames, size) != (FRAMES, (SIZE, SIZE)):
        found = f"{num_frames} frames of {size[0]}x{size[1]}"
        raise InputError(f"the embedded world has {FRAMES} frames of {SIZE}x{SIZE}, asked for are {found}: give --data DIR")
