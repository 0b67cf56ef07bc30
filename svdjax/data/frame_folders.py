"""Reader for folders of frames: image files in natural order, read with `svdjax.media.images.load_image`."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator

import numpy as np

from svdjax.data.animations import is_animation
from svdjax.data.frame_reader import Pixels, file_digest
from svdjax.errors import InputError
from svdjax.media.images import load_image

# HEIC is included even if its package is missing, so that it is refused with a message and not ignored.
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".avif", ".jp2"),
    *(".heic", ".heif", ".hif"),
)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts `frame2` before `frame10`; different for different names."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a file; False for links that can't be followed."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_frame(path: str) -> bool:
    """Whether a file is a frame of its folder, by its name. An animation is not."""
    name = os.path.basename(path).lower()
    return name.endswith(ENDINGS) and not name.startswith(".") and not is_animation(path)


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. `count` is unused."""
    for file in _files(path)[start:]:
        yield functools.partial(_pixels, file)


def digest(path: str) -> tuple[int, str]:
    """See `svdjax.data.frame_reader.FrameReader`. Covers names, order and content of the frames."""
    total, whole = 0, hashlib.sha256()
    for file in _files(path):
        size, content = file_digest(file)
        total += size
        whole.update(f"{os.path.basename(file)!a} {content}\n".encode())
    return total, whole.hexdigest()


def _files(path: str) -> list[str]:
    try:
        names = sorted((entry.name for entry in os.scandir(path) if is_file(entry)), key=natural_key)
    except OSError as e:
        raise InputError(f"{path}: can't be read ({e.strerror or e})") from None
    return [file for name in names if is_frame(file := os.path.join(path, name))]


def _pixels(file: str) -> np.ndarray:
    return load_image(file)[0]
