"""Metrics of a generated clip against the true clip: PSNR, SSIM, errors of the keyframes and of the object's track."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sample.evaluation.tracking import track, wrong_way
from svdjax.world.drawing import coverage
from svdjax.world.scene import Scene


class Metric(NamedTuple):
    """A metric in tables.

    Attributes:
        title: title of its column.
        higher_is_better: whether a higher value is better.
    """

    title: str
    higher_is_better: bool


METRICS = {
    "psnr": Metric("PSNR, dB", True),
    "ssim": Metric("SSIM", True),
    "region_psnr": Metric("PSNR of the object's region, dB", True),
    "region_ssim": Metric("SSIM of the object's region", True),
    "trajectory_error": Metric("tracking error, px", False),
    "mismatch": Metric("difference from the object's picture", False),
    "wrong_way": Metric("steps the wrong way", False),
    "path_ratio": Metric("path over straight line", False),
    "end_error": Metric("end-frame error, levels", False),
}
MARGIN = 2  # width in pixels of the border around the object that belongs to its region
_HIGHEST_PSNR = 100.0  # dB; identical frames get this value
_WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def clip_metrics(truth: np.ndarray, frames: np.ndarray, scene: Scene | None = None) -> dict[str, float]:
    """All metrics of a clip, by name; metrics of the object's region and track only if there is a scene.

    - `psnr`, `ssim`: means over the frames between the keyframes, PSNR in dB. SSIM per colour channel with a Gaussian window,
      after Wang et al. 2004.
    - `region_psnr`, `region_ssim`: the same, only in the `object_region` of the true clip.
    - `trajectory_error`: mean tracking error over the frames between the keyframes, in pixels.
    - `mismatch`: root mean squared difference between the frame and the object's picture at the tracked position, colours in
      [0, 1]; mean over the frames between the keyframes.
    - `wrong_way`: fraction of all frame-to-frame steps that go against the object's heading; see `tracking.wrong_way`.
    - `path_ratio`: length of the tracked path divided by the distance from its start to its end, at least 1 pixel.
    - `end_error`: root mean squared difference of the first and the last frame from the keyframes, in levels of 255.

    Args:
        truth: uint8 (f, H, W, 3).
        frames: uint8 of the same shape.
        scene: the true clip's scene in the embedded world.
    """
    region = None if scene is None else object_region(scene)[1:-1]
    values = _psnr(truth[1:-1], frames[1:-1], region) | _ssim(truth[1:-1], frames[1:-1], region)
    ends = frames[[0, -1]].astype(float) - truth[[0, -1]]
    values["end_error"] = float(np.sqrt(np.square(ends).mean()))
    return values if scene is None else values | _track_metrics(scene, frames)


def object_region(scene: Scene) -> np.ndarray:
    """The pixels of the object and a margin around it: bool (f, H, W)."""
    return dilate(coverage(scene) > 0, MARGIN)


def dilate(mask: np.ndarray, margin: int) -> np.ndarray:
    """A mask (f, H, W) extended by `margin` pixels along both image axes."""
    for axis in (1, 2):
        pads = [(margin, margin) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(mask, pads)
        mask = np.any([np.take(padded, range(i, i + mask.shape[axis]), axis) for i in range(2 * margin + 1)], 0)
    return mask


def _track_metrics(scene: Scene, frames: np.ndarray) -> dict[str, float]:
    found = track(scene, frames)
    errors = np.linalg.norm(found.centres - scene.centres, axis=1)
    path = np.linalg.norm(np.diff(found.centres, axis=0), axis=1).sum()
    straight = np.linalg.norm(found.centres[-1] - found.centres[0])
    return {
        "trajectory_error": float(errors[1:-1].mean()),
        "mismatch": float(found.mismatch[1:-1].mean()),
        "wrong_way": float(wrong_way(scene, found).mean()),
        "path_ratio": float(path / max(straight, 1.0)),
    }


def _psnr(truth: np.ndarray, frames: np.ndarray, region: np.ndarray | None) -> dict[str, float]:
    whole, within = [], []
    for i, (a, b) in enumerate(zip(truth, frames, strict=True)):
        squared = np.square(b.astype(float) - a).mean(-1)
        whole.append(_decibels(squared))
        if region is not None:
            within.append(_decibels(squared[region[i]]))
    return _means(psnr=whole, region_psnr=within)


def _decibels(squared_errors: np.ndarray) -> float:
    return min(_HIGHEST_PSNR, 10 * np.log10(255**2 / max(float(squared_errors.mean()), 1e-12)))


def _ssim(truth: np.ndarray, frames: np.ndarray, region: np.ndarray | None) -> dict[str, float]:
    from skimage.metrics import structural_similarity

    whole, within = [], []
    for i, (a, b) in enumerate(zip(truth, frames, strict=True)):
        # the stub doesn't know that `full` alone returns two values
        mean, pixels = structural_similarity(a, b, channel_axis=-1, full=True, **_WANG)  # pyright: ignore[reportAssignmentType]
        whole.append(mean)
        if region is not None:
            within.append(pixels[region[i]].mean())
    return _means(ssim=whole, region_ssim=within)


def _means(**values: list[float]) -> dict[str, float]:
    """Means over frames of the figures that have values."""
    return {name: float(np.mean(found)) for name, found in values.items() if found}
