"""The embedded world: short clips of one thing that always moves toward its nose.

A dart, a car or a fish crosses a two-colour background in 8 frames of 64x64 pixels. It never moves backward, so the world has
an arrow of time: a clip played in reverse can be told from a real one. Clips are functions of (split, number) alone; the
numbers here are frozen, and `VERSION` changes with any of them.

Coordinates are pixels with x to the right and y down, (0, 0) the corner of the first pixel; headings are radians from x to y.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

VERSION = 1
SIZE = 64  # pixels, both sides
FRAMES = 8
KINDS = ("dart", "car", "fish")
SPLITS = {"train": 1, "validation": 2, "test": 3}  # the second number of each clip's seed, so no two splits share a clip
LENGTH = (18.0, 26.0)  # pixels, from tail to nose
SPEED = (2.5, 4.5)  # pixels a frame
TURN = np.radians(4)  # at most, a frame, either way
WIDTH = {"dart": 0.72, "car": 0.52, "fish": 0.48}  # over the length
LEAVES = 0.3  # share of the training clips whose thing may be partly outside in the first or the last frame
CONTRAST = 0.5  # least distance of the thing's colour to both of the background's, RGB in [0, 1]
TEXTURE = 0.02  # amplitude of each wave of the background
WAVES = 3


@dataclass(frozen=True)
class Scene:
    """What is in a clip.

    Attributes:
        kind: one of `KINDS`.
        length: pixels.
        speed: pixels a frame.
        turn: radians a frame, constant.
        heading: of the nose in the first frame.
        centre: (x, y) in the first frame.
        colour: RGB in [0, 1].
        background: two colours, from side to side.
        gradient: direction from the first to the second.
        waves: (amplitude, angle, pixels a period, phase) of each wave of the texture.
    """

    kind: str
    length: float
    speed: float
    turn: float
    heading: float
    centre: tuple[float, float]
    colour: tuple[float, float, float]
    background: tuple[tuple[float, float, float], tuple[float, float, float]]
    gradient: float
    waves: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def headings(self) -> np.ndarray:
        """Of the nose in every frame, (8,)."""
        return self.heading + self.turn * np.arange(FRAMES)

    @property
    def centres(self) -> np.ndarray:
        """(x, y) in every frame, (8, 2): each step goes where the nose points halfway through it."""
        return np.asarray(self.centre) + _path(self.speed, self.turn, self.heading)


def scene(split: str, number: int) -> Scene:
    """Clip `number` of a split, from 0; those of `validation` and `test` have the whole thing in both keyframes.

    Args:
        split: a key of `SPLITS`.
        number: at least 0.

    Raises:
        ValueError: another split, or a number below 0.
    """
    if split not in SPLITS or number < 0:
        raise ValueError(f"clip {number} of split {split!r}: expected a number from 0 of {', '.join(SPLITS)}")
    rng = np.random.default_rng([VERSION, SPLITS[split], number])

    def between(low: float, high: float) -> float:
        return low + (high - low) * rng.random()

    kind = KINDS[int(rng.random() * len(KINDS))]
    length, speed, turn = between(*LENGTH), between(*SPEED), between(-TURN, TURN)
    heading = between(-np.pi, np.pi)
    path = _path(speed, turn, heading)
    keyframes = [0, FRAMES - 1]
    leaves = split == "train" and rng.random() < LEAVES
    wholly = [keyframes[int(rng.random() * 2)]] if leaves else keyframes
    # the centre that has the thing's corners inside wherever they must be
    corners = np.concatenate([path[t] + _corners(kind, length, heading + turn * t) for t in wholly])
    low, high = 1 - corners.min(0), SIZE - 1 - corners.max(0)
    centre = tuple(float(between(a, b)) for a, b in zip(low, high, strict=True))
    while True:
        colour = colorsys.hsv_to_rgb(rng.random(), between(0.75, 1), between(0.75, 1))
        background = tuple(colorsys.hsv_to_rgb(rng.random(), between(0.1, 0.5), between(0.2, 0.9)) for _ in range(2))
        if min(np.linalg.norm(np.subtract(colour, other)) for other in background) >= CONTRAST:
            break
    gradient = between(-np.pi, np.pi)
    waves = tuple((TEXTURE, between(0, np.pi), between(6, 20), between(0, 2 * np.pi)) for _ in range(WAVES))
    return Scene(kind, length, speed, turn, heading, centre, colour, background, gradient, waves)


def _path(speed: float, turn: float, heading: float) -> np.ndarray:
    """Where the centre is in every frame, from its first place, (8, 2)."""
    halfway = heading + turn * (np.arange(FRAMES - 1) + 0.5)
    steps = speed * np.stack([np.cos(halfway), np.sin(halfway)], -1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def _corners(kind: str, length: float, heading: float) -> np.ndarray:
    """Of the thing's box about its centre, (4, 2)."""
    along = np.array([np.cos(heading), np.sin(heading)]) * length / 2
    across = np.array([-along[1], along[0]]) * WIDTH[kind]
    return np.stack([a * along + b * across for a in (-1, 1) for b in (-1, 1)])
