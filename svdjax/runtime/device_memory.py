"""One line of error where the device runs out of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from svdjax.errors import InputError


@contextlib.contextmanager
def out_of_memory_in_one_line(advice: str) -> Iterator[None]:
    """Raise `InputError` in place of XLA's error if the device runs out of memory within the block.

    Args:
        advice: what was lost and what the user can try, the end of the line.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(f"the device ran out of memory: {advice}") from None
