"""The embedded world: short clips of an object that always moves toward its nose.

The object is a dart, a car or a fish. It crosses a two-colour background in 8 frames of 64x64 pixels and never moves backward,
so the world has an arrow of time: a reversed clip can be distinguished from a real one. A clip depends only on its split and
number. The constants here are frozen; `VERSION` changes with any of them.

Coordinates are pixels: x to the right, y down, (0, 0) at the top left corner of the first pixel. Headings are radians
from x toward y.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

VERSION = 1
SIZE = 64  # width and height, pixels
FRAMES = 8
OBJECT_KINDS = ("dart", "car", "fish")
SPLITS = {"train": 1, "validation": 2, "test": 3}  # second number of each clip's seed, so splits share no clip
LENGTH = (18.0, 26.0)  # from tail to nose, pixels
SPEED = (2.5, 4.5)  # pixels per frame
TURN = np.radians(4)  # largest turn per frame, in either direction
WIDTH = {"dart": 0.72, "car": 0.52, "fish": 0.48}  # divided by the length
LEAVING = 0.3  # share of training clips in which the object may be partly outside the first or the last frame
CONTRAST = 0.5  # smallest distance between the object's colour and both background colours, RGB in [0, 1]
TEXTURE = 0.02  # amplitude of each background wave
WAVES = 3

RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The parameters of a clip.

    Attributes:
        kind: one of `OBJECT_KINDS`.
        length: of the object, pixels.
        speed: pixels per frame.
        turn: radians per frame, constant.
        heading: direction of the nose in the first frame, radians.
        centre: (x, y) of the object in the first frame.
        colour: of the object, RGB in [0, 1].
        background: two colours with a linear gradient between them.
        gradient: direction from the first background colour to the second, radians.
        waves: (amplitude, angle, period in pixels, phase) of each texture wave.
    """

    kind: str
    length: float
    speed: float
    turn: float
    heading: float
    centre: tuple[float, float]
    colour: RGB
    background: tuple[RGB, RGB]
    gradient: float
    waves: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def headings(self) -> np.ndarray:
        """Direction of the nose in every frame, (8,)."""
        return self.heading + self.turn * np.arange(FRAMES)

    @property
    def centres(self) -> np.ndarray:
        """(x, y) in every frame, (8, 2). Each step goes in the direction of the nose halfway through the step."""
        return np.asarray(self.centre) + _path(self.speed, self.turn, self.heading)


def scene(split: str, number: int) -> Scene:
    """Clip `number` of a split. In `validation` and `test` the whole object is visible in both keyframes.

    Args:
        split: a key of `SPLITS`.
        number: at least 0.

    Raises:
        ValueError: unknown split, or a negative number.
    """
    if split not in SPLITS or number < 0:
        raise ValueError(f"clip {number} of split {split!r}: expected a number of at least 0 and one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([VERSION, SPLITS[split], number])

    def between(low: float, high: float) -> float:
        return low + (high - low) * rng.random()

    def draw_colour(saturation: tuple[float, float], value: tuple[float, float]) -> RGB:
        return colorsys.hsv_to_rgb(rng.random(), between(*saturation), between(*value))

    # The order of the draws is part of the frozen world.
    kind = OBJECT_KINDS[int(rng.random() * len(OBJECT_KINDS))]
    length, speed, turn = between(*LENGTH), between(*SPEED), between(-TURN, TURN)
    heading = between(-np.pi, np.pi)
    path = _path(speed, turn, heading)
    keyframes = [0, FRAMES - 1]
    leaving = split == "train" and rng.random() < LEAVING
    inside = [keyframes[int(rng.random() * 2)]] if leaving else keyframes  # frames that must show the whole object
    corners = np.concatenate([path[t] + _corners(kind, length, heading + turn * t) for t in inside])
    low, high = 1 - corners.min(0), SIZE - 1 - corners.max(0)
    centre = (float(between(low[0], high[0])), float(between(low[1], high[1])))
    while True:
        colour = draw_colour((0.75, 1), (0.75, 1))
        background = (draw_colour((0.1, 0.5), (0.2, 0.9)), draw_colour((0.1, 0.5), (0.2, 0.9)))
        if min(np.linalg.norm(np.subtract(colour, other)) for other in background) >= CONTRAST:
            break
    return Scene(
        kind=kind,
        length=length,
        speed=speed,
        turn=turn,
        heading=heading,
        centre=centre,
        colour=colour,
        background=background,
        gradient=between(-np.pi, np.pi),
        waves=tuple((TEXTURE, between(0, np.pi), between(6, 20), between(0, 2 * np.pi)) for _ in range(WAVES)),
    )


def _path(speed: float, turn: float, heading: float) -> np.ndarray:
    """Displacement of the centre from the first frame, for every frame, (8, 2)."""
    halfway = heading + turn * (np.arange(FRAMES - 1) + 0.5)
    steps = speed * np.stack([np.cos(halfway), np.sin(halfway)], -1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def _corners(kind: str, length: float, heading: float) -> np.ndarray:
    """Corners of the object's bounding box relative to its centre, (4, 2)."""
    along = np.array([np.cos(heading), np.sin(heading)]) * length / 2
    across = np.array([-along[1], along[0]]) * WIDTH[kind]
    return np.stack([a * along + b * across for a in (-1, 1) for b in (-1, 1)])
