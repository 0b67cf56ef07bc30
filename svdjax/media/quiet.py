"""Silence for libraries in C that print their own messages about damaged files, such as libtiff."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()


@contextlib.contextmanager
def no_standard_error() -> Iterator[None]:
    """Drop what is written on file descriptor 2 in the block, by the whole process."""
    with _lock, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
        except OSError:  # standard error is closed
            yield
            return
        stack.callback(os.close, kept)
        null = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, null)
        os.dup2(null, 2)
        stack.callback(os.dup2, kept, 2)
        yield
