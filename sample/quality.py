"""How good a clip between two keyframes is, against the true one: the figures of `sample.evaluate`."""

from __future__ import annotations

import numpy as np

from sample.pairs import Pair
from svdjax.world_tracking import track, wrong_way

# name -> what it says, and whether more is better
FIGURES = {
    "psnr": ("PSNR, dB", True),
    "ssim": ("SSIM", True),
    "region_psnr": ("PSNR of the thing's region, dB", True),
    "region_ssim": ("SSIM of the thing's region", True),
    "trajectory_error": ("trajectory error, px", False),
    "wrong_way": ("steps the wrong way", False),
    "path_ratio": ("path over straight line", False),
    "end_error": ("end-frame error, levels", False),
}
OF_WORLD = ("region_psnr", "region_ssim", "trajectory_error", "wrong_way", "path_ratio")
_BEST = 100.0  # dB of what is exactly right


def figures(pair: Pair, frames: np.ndarray) -> dict[str, float]:
    """All figures of a clip; those of the thing in it only for the embedded world.

    - `psnr`, `ssim`: over the frames between the keyframes; of the region too, where the thing truly is.
    - `trajectory_error`: mean distance of the thing's place, matched with its own picture, from the true one, pixels, there.
    - `wrong_way`: share of all steps from frame to frame that go against the nose.
    - `path_ratio`: the way that the thing goes over the distance from its first to its last place.
    - `end_error`: root mean squared difference of the first and the last frame from the keyframes, levels.

    Args:
        pair: the truth.
        frames: uint8, of its shape.
    """
    between = slice(1, -1)
    region = pair.region()
    found = dict(zip(("psnr", "region_psnr"), _psnr(pair.truth[between], frames[between], region), strict=True))
    found |= dict(zip(("ssim", "region_ssim"), _ssim(pair.truth[between], frames[between], region), strict=True))
    ends = frames[[0, -1]].astype(float) - pair.truth[[0, -1]]
    found["end_error"] = float(np.sqrt(np.square(ends).mean()))
    if pair.scene is None:
        return {name: value for name, value in found.items() if name not in OF_WORLD}
    places = track(pair.scene, frames)
    distances = np.linalg.norm(places.centres - pair.scene.centres, axis=1)
    steps = np.diff(places.centres, axis=0)
    net = np.linalg.norm(places.centres[-1] - places.centres[0])
    found["trajectory_error"] = float(distances[between].mean())
    found["wrong_way"] = float(wrong_way(pair.scene, places).mean())
    found["path_ratio"] = float(np.linalg.norm(steps, axis=1).sum() / max(net, 1.0))
    return found


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
        mean, pixels = structural_similarity(a, b, channel_axis=-1, data_range=255, full=True)
        whole.append(mean)
        if region is not None:
            within.append(pixels[region[1 + i]].mean())
    return float(np.mean(whole)), float(np.mean(within)) if within else float("nan")
