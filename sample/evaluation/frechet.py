"""Frechet distance between two sets of frames, with edge-strength features that need no trained network.

The strength of a frame's edges at three scales shows whether the frame is sharp, blurred or a blend of two images, but not
where objects are. Fifty clips are enough to tell methods apart, while FID's 2048 features need tens of thousands of frames.
The distances can be compared only with each other, not with FID or FVD.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SCALES = (0.7, 1.5, 3.0)  # standard deviations of the Gaussians, in pixels of a 64x64 frame
QUANTILES = (0.5, 0.9, 0.97, 0.995)
ENCODER = f"log quantiles {QUANTILES} of the colour gradient's magnitude, Gaussians of {SCALES} pixels, frames of 64x64"
_SIDE = 64
_LEAST = 1e-3  # added to a magnitude before the logarithm; one level of 255 is four times as much


def features(frames: np.ndarray) -> np.ndarray:
    """Features of frames: uint8 (n, H, W, 3) -> (n, 12)."""
    from scipy.ndimage import gaussian_filter

    small = np.stack([np.asarray(Image.fromarray(x).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)) for x in frames])
    quantiles = []
    for scale in SCALES:
        smooth = gaussian_filter(small / 255, (0, scale, scale, 0))
        slopes = np.stack([np.gradient(smooth, axis=axis) for axis in (1, 2)])
        magnitude = np.sqrt(np.square(slopes).sum((0, -1)))
        quantiles.append(np.quantile(magnitude, QUANTILES, axis=(1, 2)))
    return np.log(np.concatenate(quantiles).T + _LEAST)


def distance(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Frechet distance of normal distributions fitted to two sets of features: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Source: Dowson and Landau 1982; Heusel et al. 2017.

    Args:
        first, second: features, (n, c).
        weights: how often each row counts, (n,); the same for both sets. Default: once.
    """
    if min(len(first), len(second)) >= first.shape[1]:
        return distance_of_moments(*(moments([(x, np.ones(len(x)) if weights is None else weights)]) for x in (first, second)))
    (mean_1, factor_1), (mean_2, factor_2) = (_factor(x, weights) for x in (first, second))
    cross = np.linalg.svd(factor_1 @ factor_2.T, compute_uv=False).sum()
    return float(np.square(mean_1 - mean_2).sum() + np.square(factor_1).sum() + np.square(factor_2).sum() - 2 * cross)


class Moments(NamedTuple):
    """Weight of a set of features, their mean (c,), and the sum of the weighted products of deviations from it, (c, c)."""

    weight: float
    mean: np.ndarray
    products: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased."""
        return self.products / (self.weight - 1)


def moments(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Moments:
    """Moments of features that need not be in memory together, in float64.

    Args:
        blocks: features, (n, c), and how often each row counts, (n,).
    """
    weight, shift, total, products = 0.0, None, np.zeros(()), np.zeros(())
    for rows, counts in blocks:
        if shift is None:  # near the mean: without it, the mean's square would cancel most digits of small variances
            shift = rows.mean(0, dtype=np.float64)
        roots = np.sqrt(counts)
        deviations = (rows - shift) * roots[:, None]
        weight += counts.sum()
        total = total + roots @ deviations
        products = products + deviations.T @ deviations
    assert shift is not None
    return Moments(float(weight), shift + total / weight, products - np.outer(total, total) / weight)


def distance_of_moments(first: Moments, second: Moments) -> float:
    """See `distance`; less exact if a set has fewer rows than features."""
    root = _square_root(first.covariance)
    # (C1 C2)^(1/2) has the trace of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric
    cross = np.sqrt(np.linalg.eigvalsh(root @ second.covariance @ root).clip(0)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(np.square(first.mean - second.mean).sum() + traces - 2 * cross)


def leading_components(sets: Sequence[Moments], count: int) -> tuple[np.ndarray, float]:
    """The leading principal components of several sets of features together.

    Args:
        sets: their moments.
        count: number of components.

    Returns:
        The components, (c, count), and their share of the variance.
    """
    mean = np.sum([x.weight * x.mean for x in sets], 0) / sum(x.weight for x in sets)
    covariance = np.sum([x.products + x.weight * np.outer(x.mean - mean, x.mean - mean) for x in sets], 0)
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, -count:], float(values[-count:].sum() / max(values.sum(), 1e-300))


def _factor(x: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (c,) of features (n, c), and a factor F of their unbiased covariance F^T F, (n, c); in float64."""
    counts = np.ones(len(x)) if weights is None else weights
    mean = counts @ x / counts.sum()
    return mean, (x - mean) * np.sqrt(counts / (counts.sum() - 1))[:, None]


def _square_root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
