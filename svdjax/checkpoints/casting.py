"""Casting of values for storage: values beyond the range of the narrower type are an error, and never become infinite."""

from __future__ import annotations

from typing import Any

import numpy as np

from svdjax.errors import InputError


def cast_finite(values: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Contiguous `values` in `dtype`.

    Args:
        values: finite numbers.
        dtype: a floating point type.
        name: the tensor and its file, for the message.

    Raises:
        InputError: a value beyond the range of `dtype`.
    """
    with np.errstate(over="ignore"):  # refused below
        cast = np.ascontiguousarray(values, np.dtype(dtype))
    if cast.dtype != values.dtype and not np.isfinite(cast).all():
        largest = np.abs(values).max()
        raise InputError(f"{name} holds {largest:.3g}, beyond the range of {np.dtype(dtype).name}: use another --dtype")
    return cast
