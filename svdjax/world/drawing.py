"""Drawing of the embedded world (`svdjax.world.scene`).

Shapes are signed distance functions, so edges are antialiased without supersampling. Their coordinates are in units of the
object's length: u along the object from tail (-0.5) to nose (0.5), v across it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from svdjax.world.scene import SIZE, Scene

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (u, v) to the distance from the edge, negative inside
Layer = tuple[Distance, np.ndarray]  # shape and colour

DARK, PALE = np.array([0.12, 0.12, 0.15]), np.array([1.0, 0.98, 0.85])


def render(scene: Scene) -> np.ndarray:
    """The clip, uint8 (8, 64, 64, 3)."""
    pictures = np.stack([draw_on(scene, background(scene), t) for t in range(len(scene.centres))])
    return to_uint8(pictures)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Clip colours to [0, 1] and scale them to 0..255."""
    return np.round(255 * picture.clip(0, 1)).astype(np.uint8)


def coverage(scene: Scene) -> np.ndarray:
    """Share of each pixel that the object covers, (8, 64, 64) in [0, 1]."""
    return np.stack([frame_coverage(scene, t) for t in range(len(scene.centres))])


def frame_coverage(scene: Scene, t: int) -> np.ndarray:
    """Share of each pixel that the object covers in frame `t`, (64, 64) in [0, 1]."""
    uv = _object_coordinates(scene, t)
    return np.max([_pixel_coverage(shape(*uv), scene.length) for shape, _ in layers(scene)[: OUTLINE[scene.kind]]], 0)


def background(scene: Scene) -> np.ndarray:
    """The picture without the object, float (64, 64, 3), colours in about [0, 1]."""
    x, y = _pixel_centres()
    along = (x - SIZE / 2) * np.cos(scene.gradient) + (y - SIZE / 2) * np.sin(scene.gradient)
    share = (along / SIZE + 0.5).clip(0, 1)[..., None]
    first, second = map(np.asarray, scene.background)
    picture = first * (1 - share) + second * share
    for amplitude, angle, period, phase in scene.waves:
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
        picture = picture + amplitude * wave[..., None]
    return picture


def layers(scene: Scene) -> list[Layer]:
    """The shapes of the object from bottom to top. The first `OUTLINE[kind]` of them form its outline."""
    return list(_OBJECTS[scene.kind](np.asarray(scene.colour)))


def _dart(colour: np.ndarray) -> Iterator[Layer]:
    yield polygon((0.5, 0), (-0.5, 0.36), (-0.28, 0), (-0.5, -0.36)), colour
    yield polygon((0.5, 0), (-0.5, 0.36), (-0.28, 0)), 0.6 * colour  # the shaded half, on one side of the fold


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


_OBJECTS = {"dart": _dart, "car": _car, "fish": _fish}
OUTLINE = {"dart": 1, "car": 1, "fish": 2}


def polygon(*corners: tuple[float, float]) -> Distance:
    """A simple polygon."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest, inside = np.full(u.shape, np.inf), np.zeros(u.shape, bool)
        for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
            du, dv = u1 - u0, v1 - v0
            along = (((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv)).clip(0, 1)
            nearest = np.minimum(nearest, np.hypot(u - u0 - along * du, v - v0 - along * dv))
            if dv:  # even-odd rule: does a ray toward greater u cross this edge?
                inside ^= ((v0 <= v) != (v1 <= v)) & (u < u0 + (v - v0) * du / dv)
        return np.where(inside, -nearest, nearest)

    return distance


def box(u0: float, v0: float, half_u: float, half_v: float, radius: float) -> Distance:
    """A rectangle with rounded corners, centred at (u0, v0)."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a, b = np.abs(u - u0) - half_u + radius, np.abs(v - v0) - half_v + radius
        return np.hypot(a.clip(0), b.clip(0)) + np.maximum(a, b).clip(max=0) - radius

    return distance


def ellipse(u0: float, v0: float, half_u: float, half_v: float) -> Distance:
    """An ellipse centred at (u0, v0). The distance is exact at the edge and a first-order approximation elsewhere."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a, b = (u - u0) / half_u, (v - v0) / half_v
        slope = np.hypot(a / half_u, b / half_v).clip(1e-6)
        return (a * a + b * b - 1) / (2 * slope)

    return distance


def disc(u0: float, v0: float, radius: float) -> Distance:
    """A disc centred at (u0, v0)."""
    return lambda u, v: np.hypot(u - u0, v - v0) - radius


def draw_on(scene: Scene, picture: np.ndarray, t: int) -> np.ndarray:
    """Draw the object of frame `t` over a picture, float (64, 64, 3), colours in about [0, 1]."""
    uv = _object_coordinates(scene, t)
    for shape, colour in layers(scene):
        covered = _pixel_coverage(shape(*uv), scene.length)[..., None]
        picture = picture * (1 - covered) + colour * covered
    return picture


def _pixel_coverage(distance: np.ndarray, length: float) -> np.ndarray:
    return (0.5 - distance * length).clip(0, 1)


def _object_coordinates(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """u and v of every pixel centre, (64, 64) each."""
    x, y = _pixel_centres()
    x, y = x - scene.centres[t, 0], y - scene.centres[t, 1]
    cos, sin = np.cos(scene.headings[t]) / scene.length, np.sin(scene.headings[t]) / scene.length
    return x * cos + y * sin, y * cos - x * sin


def _pixel_centres() -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel centre, (64, 64) each."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return x, y
