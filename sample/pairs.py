"""Pairs of keyframes whose frames between are known: clips of the embedded world that no training sees, or of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svdjax.errors import InputError
from svdjax.world import FRAMES, SIZE, Scene, scene
from svdjax.world_drawing import coverage, render
from train.order import Order
from train.scan import scan
from train.sources import DataSettings, read_clip

SPLIT = "test"
MARGIN = 2  # pixels around the thing that count as its region


@dataclass(frozen=True)
class Pair:
    """A clip, of which the methods see the first and the last frame.

    Attributes:
        name: of its folders, and of what it is.
        title: for people.
        truth: uint8 (f, H, W, 3).
        scene: of the embedded world, else None.
    """

    name: str
    title: str
    truth: np.ndarray
    scene: Scene | None = None

    def region(self) -> np.ndarray | None:
        """Where the thing is in each frame, and a little around it: bool (f, H, W); None outside the embedded world."""
        return None if self.scene is None else widened(coverage(self.scene) > 0, MARGIN)


def widened(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask (f, H, W) and all pixels less than `by` + 1 away along either axis."""
    for axis in (1, 2):
        pads = [(by, by) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(mask, pads)
        mask = np.any([np.take(padded, range(i, i + mask.shape[axis]), axis) for i in range(2 * by + 1)], 0)
    return mask


def of_world(count: int, first: int = 0) -> list[Pair]:
    """Clips of the split that training never reads."""
    return [_of_scene(number) for number in range(first, first + count)]


def _of_scene(number: int) -> Pair:
    found = scene(SPLIT, number)
    return Pair(f"{number:04d}", f"{SPLIT} {number}: {found.kind}", render(found), found)


def of_folder(settings: DataSettings, count: int, seed: int) -> list[Pair]:
    """Clips of a folder of videos or frames, drawn as training draws them.

    Raises:
        InputError: nothing in it can be used.
    """
    found = scan(settings)
    order = Order(found.usable, settings, seed)
    pairs = []
    for number in range(count):
        clip = order.clip(number)
        truth = read_clip(clip.source, clip.start, clip.num_frames, clip.stride, settings.size, settings.fit)
        pairs.append(Pair(f"{number:04d}", clip.name, truth))
    return pairs


def check_world(num_frames: int, size: tuple[int, int], data: Path | None) -> None:
    """Refuse a model of other clips than the world's, where they are what it is measured on."""
    if data is None and (num_frames, size) != (FRAMES, (SIZE, SIZE)):
        found = f"{num_frames} frames of {size[0]}x{size[1]}"
        raise InputError(f"the embedded world has {FRAMES} frames of {SIZE}x{SIZE}, asked for are {found}: give --data DIR")
