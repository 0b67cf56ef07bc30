"""The Frechet distance between two sets of frames, on features of a fixed encoder that nobody trains: HOG.

Histograms of oriented gradients (Dalal and Triggs 2005), as scikit-image computes them, see shapes and edges, which is what
ghosts, blobs and bent things have wrong. Figures of this encoder compare with each other alone, not with FID or FVD.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

ENCODER = "HOG, 9 orientations, cells of 16x16 and blocks of 1x1, of 64x64 pixels (scikit-image)"
_SIDE = 64


def features(frames: np.ndarray) -> np.ndarray:
    """uint8 (n, H, W, 3) -> (n, 144)."""
    from skimage.feature import hog

    small = (np.asarray(Image.fromarray(x).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)) for x in frames)
    return np.stack([hog(x / np.float32(255), 9, (16, 16), (1, 1), channel_axis=-1) for x in small])


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between normal distributions of two sets of features, (n, c) each: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    means = [x.mean(0) for x in (first, second)]
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    root = _root(covariances[0])
    # (C1 C2)^(1/2) has the trace of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(np.square(means[0] - means[1]).sum() + sum(map(np.trace, covariances)) - 2 * cross)


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
