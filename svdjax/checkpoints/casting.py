"""Casting numbers that are to be stored: a value that the narrower type can't hold is refused, never made infinite."""

from __future__ import annotations

from typing import Any

import numpy as np

from svdjax.errors import InputError


def cast_finite(values: np.ndarray, dtype: Any, what: str) -> np.ndarray:
    """Contiguous `values` in `dtype`.

    Args:
        values: finite numbers.
        dtype: a floating point type.
        what: the tensor, and where it is from, for the message.

    Raises:
        InputError: a number beyond the type's range.
    """
    with np.errstate(over="ignore"):  # refused below
        cast = np.ascontiguousarray(values, np.dtype(dtype))
    if cast.dtype != values.dtype and not np.isfinite(cast).all():
        largest = np.abs(values).max()
        raise InputError(f"{what} holds {largest:.3g}, beyond the range of {np.dtype(dtype).name}: use another --dtype")
    return cast
