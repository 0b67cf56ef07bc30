"""Methods without a model: the clip of a pair from its two keyframes alone."""

from __future__ import annotations

import numpy as np


def nearest_keyframe(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """The keyframe that is nearer in time, in the middle the first: uint8 (H, W, 3) each -> uint8 (count, H, W, 3)."""
    return np.stack([first if 2 * i <= count - 1 else last for i in range(count)])
