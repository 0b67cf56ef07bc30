"""Track the object in frames of the embedded world by template matching with its own picture.

The centre of mass is no substitute: in a cross-fade it lies between the two ghosts of the object, where there is nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from svdjax.world.drawing import background, draw_on, frame_coverage
from svdjax.world.scene import SIZE, Scene

JITTER = 0.25  # apparent motion of a still object in pixels, about twice the mean tracking error on true frames
_TURNS = np.radians([-30, -20, -10, 0, 10, 20, 30])  # headings to try, relative to the true one


@dataclass(frozen=True)
class Track:
    """The best match in each frame.

    Attributes:
        centres: (x, y) in pixels, (f, 2).
        headings: best of a few headings around the true one, in radians, (f,).
        mismatch: root mean squared difference from the object's picture at the match, colours in [0, 1], (f,). About 0.08
            after the VAE alone, 0.2 or more without an object; a half-transparent ghost differs less than a deformed object.
    """

    centres: np.ndarray
    headings: np.ndarray
    mismatch: np.ndarray


def track(scene: Scene, frames: np.ndarray) -> Track:
    """Find a scene's object in each frame.

    Args:
        scene: defines the object's shape, colour and true headings.
        frames: uint8 (8, 64, 64, 3), of this scene or generated from its keyframes.
    """
    matches = [_match(scene, frame / 255.0, heading) for frame, heading in zip(frames, scene.headings, strict=True)]
    centres, headings, mismatch = zip(*matches, strict=True)
    return Track(np.array(centres), np.array(headings), np.array(mismatch))


def wrong_way(scene: Scene, found: Track) -> np.ndarray:
    """Whether each frame-to-frame step goes against the true heading by more than `JITTER`: bool (f - 1,)."""
    halfway = (scene.headings[1:] + scene.headings[:-1]) / 2
    nose = np.stack([np.cos(halfway), np.sin(halfway)], -1)
    return (np.diff(found.centres, axis=0) * nose).sum(-1) < -JITTER


def _match(scene: Scene, frame: np.ndarray, heading: float) -> tuple[np.ndarray, float, float]:
    """Centre (x, y), heading and mismatch of the best match in a frame, (64, 64, 3) in [0, 1]."""
    best = (np.full(2, np.nan), heading, np.inf)
    for turned in heading + _TURNS:
        mask, picture = _template(scene, turned)
        # sum of mask * (frame - picture)^2 for every position of the template's centre
        error = _correlate(frame**2, mask[..., None]) - 2 * _correlate(frame, mask[..., None] * picture)
        error = (error + (mask[..., None] * picture**2).sum()) / (3 * mask.sum())
        y, x = np.unravel_index(error.argmin(), error.shape)
        if error[y, x] < best[2]:
            centre = np.array([_subpixel_minimum(error[y], x), _subpixel_minimum(error[:, x], y)])
            best = (centre, turned, error[y, x])
    return best[0], best[1], float(max(best[2], 0) ** 0.5)


def _template(scene: Scene, heading: float) -> tuple[np.ndarray, np.ndarray]:
    """The object in the centre of a frame: its coverage (64, 64) and its picture (64, 64, 3)."""
    middle = dataclasses.replace(scene, centre=(SIZE / 2, SIZE / 2), heading=heading, turn=0.0, speed=0.0)
    return frame_coverage(middle, 0), draw_on(middle, background(middle), 0)


def _correlate(frame: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Cross-correlation summed over channels, (64, 64), with the template's centre at each pixel; zeros outside the frame."""
    shape = (2 * SIZE, 2 * SIZE)
    transform = np.fft.rfft2(frame, shape, axes=(0, 1)) * np.fft.rfft2(template, shape, axes=(0, 1)).conj()
    whole = np.fft.irfft2(transform.sum(-1), shape)
    return np.roll(whole, (SIZE // 2, SIZE // 2), (0, 1))[:SIZE, :SIZE]


def _subpixel_minimum(values: np.ndarray, at: int | np.integer) -> float:
    """Minimum of the parabola through the values at `at - 1`, `at` and `at + 1`."""
    if not 0 < at < len(values) - 1:
        return float(at)
    before, here, after = values[at - 1 : at + 2]
    curvature = before - 2 * here + after
    return float(at) if curvature <= 0 else float(at + 0.5 * (before - after) / curvature)
