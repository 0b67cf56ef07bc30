"""Floating point types of commands and stored weights, and the default for computation."""

from __future__ import annotations

import jax

DTYPES = ("float32", "bfloat16", "float16")


def compute_dtype(requested: str | None = None) -> str:
    """The dtype to compute in.

    Args:
        requested: one of `DTYPES`, or None for the default: float32 on a CPU, bfloat16 on an accelerator.
    """
    return requested or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
