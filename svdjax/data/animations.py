"""Reader for animated gif, webp, png and avif files, with Pillow (FFmpeg can't read animated webp)."""

from __future__ import annotations

import functools
import itertools
import os
import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from svdjax.data.frame_reader import Pixels, file_digest
from svdjax.errors import InputError, one_line
from svdjax.media.colours import to_srgb
from svdjax.media.image_pixels import composite
from svdjax.media.images import MAX_PIXELS, WHITE

_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")

digest = file_digest


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. Transparent parts are composited over white. `count` is unused.

    A still picture before the animation of a png is left out. Of 16 bits per channel the high byte is used.
    """
    try:
        Image.init()
        known = [name for name in _FORMATS if name in Image.OPEN]  # AVIF is optional in builds of Pillow
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # too many pixels are refused below
            opened = Image.open(path, formats=known)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise InputError(f"{path}: {size} pixels, expected at most {MAX_PIXELS // 10**6} million")
            first = int(getattr(image, "default_image", False))
            for number in itertools.count():
                try:
                    image.seek(first + number)
                except EOFError:
                    if image.format != "GIF" and first + number < getattr(image, "n_frames", 1):
                        expected = getattr(image, "n_frames", 1) - first
                        raise InputError(f"{path}: the animation is cut short: {number} frames, expected {expected}") from None
                    return
                image.load()
                if number >= start:
                    yield lambda: _pixels(image)
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not an animated gif, webp, png or avif that can be read") from None
    except InputError:
        raise
    except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
        raise InputError(f"{path}: the animation is damaged or cut short ({one_line(e) or type(e).__name__})") from None


def is_animation(path: str) -> bool:
    """Whether a webp, png or avif file is an animation. A png with one frame is a still image.

    The result is remembered while the file doesn't change: folders of frames are listed for every clip.
    """
    if not path.lower().endswith((".webp", ".png", ".apng", ".avif", ".avifs")):
        return False
    try:
        info = os.stat(path)
        return _is_animation(path, info.st_ino, info.st_size, info.st_mtime_ns)
    except OSError:
        return False


@functools.lru_cache(maxsize=2**16)
def _is_animation(path: str, *_state: int) -> bool:
    with open(path, "rb") as file:
        head = file.read(21)
        if head[:4] == b"RIFF":  # the animation flag of Google's WebP container specification, extended header
            return head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 0x02)
        if head[4:8] == b"ftyp":
            return head[8:12] == b"avis"
        return head.startswith(b"\x89PNG\r\n\x1a\n") and _png_frames(file) > 1


def _png_frames(file: BinaryIO) -> int:
    """The number of frames in the chunk acTL, which comes before the pixels (PNG specification, 3rd edition, 11.3.6)."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"acTL":
            return int.from_bytes(file.read(4), "big")
        if kind == b"IDAT":
            break
        file.seek(length + 4, os.SEEK_CUR)
    return 0


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow's conversion would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    rgba = image.convert("RGBA")
    rgb, _ = to_srgb(rgba.convert("RGB"), image.info.get("icc_profile"))
    return composite(rgb, np.asarray(rgba.getchannel("A")), WHITE)
