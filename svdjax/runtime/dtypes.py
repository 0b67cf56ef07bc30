"""Floating point types of commands and stored weights, and the default for computation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from svdjax.devices.target import target
from svdjax.errors import InputError, one_line

DTYPES = ("float32", "bfloat16", "float16")


def compute_dtype(requested: str | None = None) -> str:
    """The dtype to compute in.

    Args:
        requested: one of `DTYPES`, or None for the default: float32 on a CPU, bfloat16 on an accelerator.
    """
    return requested or ("float32" if target().is_cpu else "bfloat16")


def check_dtype(dtype: Any) -> None:
    """Check a `dtype` argument: None, or a floating point type as NumPy, JAX or text (`"bfloat16"`).

    Raises:
        InputError: anything else.
    """
    if dtype is None:
        return
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise InputError(f"dtype is {one_line(repr(dtype), 60)}, expected a floating point type such as float32 or bfloat16")
