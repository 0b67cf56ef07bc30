"""Numbers as Python callers pass them: Python's, NumPy's, JAX's, and arrays without axes."""

from __future__ import annotations

import math
import numbers
from typing import Any


def plain(value: Any) -> Any:
    """The Python number of a NumPy or JAX scalar or of an array of shape (); any other value unchanged."""
    if getattr(value, "shape", None) != () or not hasattr(value, "item"):
        return value
    return value.item()


def whole_number(value: Any) -> int | None:
    """`value` as a Python int; None if it isn't a whole number. Booleans and floats aren't."""
    value = plain(value)
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def real_number(value: Any) -> int | float | None:
    """`value` as a Python int or float; None if it isn't a finite real number. Booleans aren't numbers."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int above the range of floats
        return None
    if not finite:
        return None
    return value if isinstance(value, (int, float)) else float(value)
