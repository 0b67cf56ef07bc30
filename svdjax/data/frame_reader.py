"""The interface of frame readers: the functions of a module that reads one kind of source.

`file_digest` is the `digest` of readers whose source is a single file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from svdjax.errors import InputError

Pixels = Callable[[], np.ndarray]


class FrameReader(Protocol):
    """A reader for one kind of source: a module with these two functions, importable without JAX.

    Both raise `InputError` for unreadable sources, with one line that begins with the file's name.
    """

    def frames(self, path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
        """The frames from number `start` on, in display order.

        Args:
            path: of the source.
            start: number of the first frame, from 0.
            count: number of frames in the source, if known.

        Yields:
            For each frame a function that returns its pixels, uint8 (H, W, 3), upright, sRGB. It is valid until the next frame
            is requested. A frame that is skipped without calling it costs as little as the format allows.
        """
        ...

    def digest(self, path: str) -> tuple[int, str]:
        """Size on disk in bytes, and the SHA-256 of the content in hexadecimal."""
        ...


def file_digest(path: str) -> tuple[int, str]:
    """See `FrameReader.digest`."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise InputError(f"{path}: can't be read ({e.strerror or e})") from None
