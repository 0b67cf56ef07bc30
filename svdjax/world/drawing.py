"""Pictures of the embedded world (`svdjax.world.scene`): shapes given by signed distances, so that edges are smooth without
supersampling. Inside a shape u runs along the thing from tail (-0.5) to nose (0.5), v across it, both in lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from svdjax.world.scene import SIZE, Scene

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of u and v: lengths to the edge, negative inside
Layer = tuple[Distance, np.ndarray]  # and its colour

DARK, PALE = np.array([0.12, 0.12, 0.15]), np.array([1.0, 0.98, 0.85])


def render(scene: Scene) -> np.ndarray:
    """The clip, uint8 (8, 64, 64, 3)."""
    pictures = np.stack([draw_on(scene, background(scene), t) for t in range(len(scene.centres))])
    return to_levels(pictures)


def to_levels(picture: np.ndarray) -> np.ndarray:
    """uint8 of a picture in about [0, 1]."""
    return np.round(255 * picture.clip(0, 1)).astype(np.uint8)


def coverage(scene: Scene) -> np.ndarray:
    """How much of each pixel the thing covers, (8, 64, 64) in [0, 1]."""
    return np.stack([covered_in(scene, t) for t in range(len(scene.centres))])


def covered_in(scene: Scene, t: int) -> np.ndarray:
    """The same in frame `t`, (64, 64)."""
    uv = _inside(scene, t)
    return np.max([_covered(shape(*uv), scene.length) for shape, _ in layers(scene)[: OUTLINE[scene.kind]]], 0)


def background(scene: Scene) -> np.ndarray:
    """The picture without the thing, (64, 64, 3), not rounded."""
    x, y = _pixels()
    along = (x - SIZE / 2) * np.cos(scene.gradient) + (y - SIZE / 2) * np.sin(scene.gradient)
    share = (along / SIZE + 0.5).clip(0, 1)[..., None]
    first, second = map(np.asarray, scene.background)
    picture = first * (1 - share) + second * share
    for amplitude, angle, period, phase in scene.waves:
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
        picture = picture + amplitude * wave[..., None]
    return picture


def layers(scene: Scene) -> list[Layer]:
    """The shapes of a thing, from the lowest to the topmost; the first `OUTLINE[kind]` make its outline."""
    return list(_THINGS[scene.kind](np.asarray(scene.colour)))


def _dart(colour: np.ndarray) -> Iterator[Layer]:
    yield polygon((0.5, 0), (-0.5, 0.36), (-0.28, 0), (-0.5, -0.36)), colour
    yield polygon((0.5, 0), (-0.5, 0.36), (-0.28, 0)), 0.6 * colour  # the half in the shade, from its fold


def _car(colour: np.ndarray) -> Iterator[Layer]:
    yield box(0, 0, 0.5, 0.26, 0.12), colour
    yield box(-0.1, 0, 0.2, 0.19, 0.05), 0.7 * colour + 0.3  # roof
    yield box(0.16, 0, 0.06, 0.19, 0.03), DARK  # windscreen
    for side in (-1, 1):
        yield disc(0.43, 0.16 * side, 0.06), PALE  # headlights


def _fish(colour: np.ndarray) -> Iterator[Layer]:
    yield polygon((-0.2, 0), (-0.5, 0.24), (-0.4, 0), (-0.5, -0.24)), 0.65 * colour  # tail
    yield ellipse(0.08, 0, 0.42, 0.22), colour
    for side in (-1, 1):
        yield disc(0.3, 0.11 * side, 0.06), DARK  # eyes


_THINGS = {"dart": _dart, "car": _car, "fish": _fish}
OUTLINE = {"dart": 1, "car": 1, "fish": 2}


def polygon(*corners: tuple[float, float]) -> Distance:
    """A simple polygon."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest, inside = np.full(u.shape, np.inf), np.zeros(u.shape, bool)
        for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
            du, dv = u1 - u0, v1 - v0
            along = (((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv)).clip(0, 1)
            nearest = np.minimum(nearest, np.hypot(u - u0 - along * du, v - v0 - along * dv))
            if dv:  # a ray to greater u crosses this edge
                inside ^= ((v0 <= v) != (v1 <= v)) & (u < u0 + (v - v0) * du / dv)
        return np.where(inside, -nearest, nearest)

    return distance


def box(u0: float, v0: float, half_u: float, half_v: float, radius: float) -> Distance:
    """A rectangle about (u0, v0) with rounded corners."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a, b = np.abs(u - u0) - half_u + radius, np.abs(v - v0) - half_v + radius
        return np.hypot(a.clip(0), b.clip(0)) + np.maximum(a, b).clip(max=0) - radius

    return distance


def ellipse(u0: float, v0: float, half_u: float, half_v: float) -> Distance:
    """An ellipse about (u0, v0); the distance is exact at the edge and of first order beside it."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a, b = (u - u0) / half_u, (v - v0) / half_v
        slope = np.hypot(a / half_u, b / half_v).clip(1e-6)
        return (a * a + b * b - 1) / (2 * slope)

    return distance


def disc(u0: float, v0: float, radius: float) -> Distance:
    """A circle about (u0, v0)."""
    return lambda u, v: np.hypot(u - u0, v - v0) - radius


def draw_on(scene: Scene, picture: np.ndarray, t: int) -> np.ndarray:
    """A picture (64, 64, 3), colours in about [0, 1], with the thing over it where it is in frame `t`."""
    uv = _inside(scene, t)
    for shape, colour in layers(scene):
        covered = _covered(shape(*uv), scene.length)[..., None]
        picture = picture * (1 - covered) + colour * covered
    return picture


def _covered(distance: np.ndarray, length: float) -> np.ndarray:
    return (0.5 - distance * length).clip(0, 1)


def _inside(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """u and v of every pixel's middle."""
    x, y = _pixels()
    x, y = x - scene.centres[t, 0], y - scene.centres[t, 1]
    cos, sin = np.cos(scene.headings[t]) / scene.length, np.sin(scene.headings[t]) / scene.length
    return x * cos + y * sin, y * cos - x * sin


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel's middle, (64, 64) each."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return x, y
