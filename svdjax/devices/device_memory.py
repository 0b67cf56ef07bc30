"""A one-line error if the device runs out of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from svdjax.errors import InputError


@contextlib.contextmanager
def out_of_memory_in_one_line(advice: str) -> Iterator[None]:
    """Raise `InputError` instead of XLA's error if the device runs out of memory within the block.

    Args:
        advice: text to append to the error message: what was lost, and what the user can try.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(f"the device ran out of memory: {advice}") from None
