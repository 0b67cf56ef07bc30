"""How good a clip between two keyframes is, against the true one: the figures of `sample.evaluate`."""

from __future__ import annotations

import numpy as np

from sample.evaluation.tracking import track, wrong_way
from svdjax.world.drawing import coverage
from svdjax.world.scene import Scene

# name -> what it says, and whether more is better
FIGURES = {
    "psnr": ("PSNR, dB", True),
    "ssim": ("SSIM", True),
    "region_psnr": ("PSNR of the thing's region, dB", True),
    "region_ssim": ("SSIM of the thing's region", True),
    "trajectory_error": ("trajectory error, px", False),
    "mismatch": ("difference from the thing's picture", False),
    "wrong_way": ("steps the wrong way", False),
    "path_ratio": ("path over straight line", False),
    "end_error": ("end-frame error, levels", False),
}
OF_WORLD = ("region_psnr", "region_ssim", "trajectory_error", "mismatch", "wrong_way", "path_ratio")
MARGIN = 2  # pixels around the thing that count as its region
_BEST = 100.0  # dB of what is exactly right
_WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def figures(truth: np.ndarray, frames: np.ndarray, scene: Scene | None = None) -> dict[str, float]:
    """All figures of a clip; those of the thing in it only for the embedded world.

    - `psnr`, `ssim`: over the frames between the keyframes; of the region too, where the thing truly is. SSIM as Wang et al.
      2004 define it, with a Gaussian window, of each colour.
    - `trajectory_error`: mean distance of the thing's place, matched with its own picture, from the true one, pixels, there.
    - `mismatch`: how much the thing's picture differs from its own at that place, colours in [0, 1], there.
    - `wrong_way`: share of all steps from frame to frame that go against the nose.
    - `path_ratio`: the way that the thing goes over the distance from its first to its last place.
    - `end_error`: root mean squared difference of the first and the last frame from the keyframes, levels.

    Args:
        truth: uint8 (f, H, W, 3).
        frames: of its shape.
        scene: of the embedded world.
    """
    between = slice(1, -1)
    region = None if scene is None else region_of(scene)
    found = dict(zip(("psnr", "region_psnr"), _psnr(truth[between], frames[between], region), strict=True))
    found |= dict(zip(("ssim", "region_ssim"), _ssim(truth[between], frames[between], region), strict=True))
    ends = frames[[0, -1]].astype(float) - truth[[0, -1]]
    found["end_error"] = float(np.sqrt(np.square(ends).mean()))
    if scene is None:
        return {name: value for name, value in found.items() if name not in OF_WORLD}
    places = track(scene, frames)
    distances = np.linalg.norm(places.centres - scene.centres, axis=1)
    steps = np.diff(places.centres, axis=0)
    net = np.linalg.norm(places.centres[-1] - places.centres[0])
    found["trajectory_error"] = float(distances[between].mean())
    found["mismatch"] = float(places.mismatch[between].mean())
    found["wrong_way"] = float(wrong_way(scene, places).mean())
    found["path_ratio"] = float(np.linalg.norm(steps, axis=1).sum() / max(net, 1.0))
    return found


def region_of(scene: Scene) -> np.ndarray:
    """Where the thing is in each frame, and a little around it: bool (f, H, W)."""
    return widened(coverage(scene) > 0, MARGIN)


def widened(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask (f, H, W) and all pixels less than `by` + 1 away along either axis."""
    for axis in (1, 2):
        pads = [(by, by) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(mask, pads)
        mask = np.any([np.take(padded, range(i, i + mask.shape[axis]), axis) for i in range(2 * by + 1)], 0)
    return mask


def _psnr(truth: np.ndarray, frames: np.ndarray, region: np.ndarray | None) -> tuple[float, float]:
    """Mean over frames, whole and in the region."""
    squared = np.square(frames.astype(float) - truth).mean(-1)

    def of(errors: np.ndarray) -> float:
        return min(_BEST, 10 * np.log10(255**2 / max(float(errors.mean()), 1e-12)))

    whole = np.mean([of(frame) for frame in squared])
    if region is None:
        return float(whole), float("nan")
    return float(whole), float(np.mean([of(frame[mask]) for frame, mask in zip(squared, region[1:-1], strict=True)]))


def _ssim(truth: np.ndarray, frames: np.ndarray, region: np.ndarray | None) -> tuple[float, float]:
    from skimage.metrics import structural_similarity

    whole, within = [], []
    for i, (a, b) in enumerate(zip(truth, frames, strict=True)):
        mean, pixels = structural_similarity(a, b, channel_axis=-1, full=True, **_WANG)
        whole.append(mean)
        if region is not None:
            within.append(pixels[region[1 + i]].mean())
    return float(np.mean(whole)), float(np.mean(within)) if within else float("nan")
