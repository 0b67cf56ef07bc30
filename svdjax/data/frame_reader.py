"""The interface of frame readers: what a module offers so that clips can be read through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

Pixels = Callable[[], np.ndarray]


class FrameReader(Protocol):
    """Reads the sources of one kind: a module with these two functions, importable without JAX.

    Both raise `InputError` with one line that begins with the file's name where something can't be read.
    """

    def frames(self, path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
        """The frames in order of display, from number `start` on (the first is 0).

        Args:
            path: of the source.
            start: the first frame wanted.
            count: how many frames the source is known to have, where it is.

        Yields:
            For each frame a function that gives its pixels, uint8 (H, W, 3), upright, sRGB. It may be called until the next
            frame is asked for, and a frame whose pixels nobody asks for costs as little as the format allows.
        """
        ...

    def digest(self, path: str) -> tuple[int, str]:
        """Bytes on disk, and the SHA-256 of the content in hexadecimal."""
        ...
