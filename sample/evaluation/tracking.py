"""Where the thing is in frames of the embedded world, such as generated ones: matched with its own picture.

A centre of mass would not do: two ghosts of a cross-fade have theirs between them, where nothing is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from svdjax.world.drawing import background, covered_in, draw_on
from svdjax.world.scene import SIZE, Scene

JITTER = 0.25  # pixels that a thing standing still may seem to move, about twice the mean error of a place
_TURNS = np.radians([-30, -20, -10, 0, 10, 20, 30])  # from the true heading, in which the thing is looked for


@dataclass(frozen=True)
class Track:
    """What was found.

    Attributes:
        centres: (x, y) in pixels in each frame, (f, 2).
        headings: radians, to the nearest of a few directions about the true one, (f,).
        mismatch: root mean squared difference of the thing's picture there, colours in [0, 1], (f,). About 0.08 where the VAE
            alone is at work, 0.2 and more where no thing is; a ghost half transparent is nearer than a thing out of shape.
    """

    centres: np.ndarray
    headings: np.ndarray
    mismatch: np.ndarray


def track(scene: Scene, frames: np.ndarray) -> Track:
    """Look for a scene's thing in each frame.

    Args:
        scene: whose thing, colour and true headings are known.
        frames: uint8 (8, 64, 64, 3), of this scene or generated from its keyframes.
    """
    found = [_find(scene, frame / 255.0, heading) for frame, heading in zip(frames, scene.headings, strict=True)]
    centres, headings, mismatch = zip(*found, strict=True)
    return Track(np.array(centres), np.array(headings), np.array(mismatch))


def wrong_way(scene: Scene, found: Track) -> np.ndarray:
    """Which steps from frame to frame go against the true nose, by more than `JITTER`, (f - 1,) bool."""
    halfway = (scene.headings[1:] + scene.headings[:-1]) / 2
    nose = np.stack([np.cos(halfway), np.sin(halfway)], -1)
    return (np.diff(found.centres, axis=0) * nose).sum(-1) < -JITTER


def _find(scene: Scene, frame: np.ndarray, heading: float) -> tuple[np.ndarray, float, float]:
    """Centre, heading and mismatch of the best match."""
    best = (np.full(2, np.nan), heading, np.inf)
    for turned in heading + _TURNS:
        mask, picture = _template(scene, turned)
        # sum of mask * (frame - picture)^2 wherever the template's middle may lie
        error = _correlate(frame**2, mask[..., None]) - 2 * _correlate(frame, mask[..., None] * picture)
        error = (error + (mask[..., None] * picture**2).sum()) / (3 * mask.sum())
        y, x = np.unravel_index(error.argmin(), error.shape)
        if error[y, x] < best[2]:
            best = (np.array([_between(error[y], x), _between(error[:, x], y)]), turned, error[y, x])
    return best[0], best[1], float(max(best[2], 0) ** 0.5)


def _template(scene: Scene, heading: float) -> tuple[np.ndarray, np.ndarray]:
    """How much the thing covers and its colours, in the middle of the picture: (64, 64) and (64, 64, 3)."""
    middle = dataclasses.replace(scene, centre=(SIZE / 2, SIZE / 2), heading=heading, turn=0.0, speed=0.0)
    return covered_in(middle, 0), draw_on(middle, background(middle), 0)


def _correlate(frame: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Sum of products with the template's middle at each whole coordinate, (64, 64); outside the frame all is zero."""
    shape = (2 * SIZE, 2 * SIZE)
    transform = np.fft.rfft2(frame, shape, axes=(0, 1)) * np.fft.rfft2(template, shape, axes=(0, 1)).conj()
    whole = np.fft.irfft2(transform.sum(-1), shape)
    return np.roll(whole, (SIZE // 2, SIZE // 2), (0, 1))[:SIZE, :SIZE]


def _between(values: np.ndarray, at: int) -> float:
    """The minimum of the parabola through three neighbours."""
    if not 0 < at < len(values) - 1:
        return float(at)
    before, here, after = values[at - 1 : at + 2]
    curvature = before - 2 * here + after
    return float(at) if curvature <= 0 else float(at + 0.5 * (before - after) / curvature)
