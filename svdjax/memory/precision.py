"""Minimum precision of numerically sensitive computations."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def stats_dtype(dtype: DTypeLike) -> np.dtype:
    """Dtype of norm statistics, softmax, sigmas and losses: at least float32; float64 stays float64."""
    return jnp.promote_types(dtype, jnp.float32)
