"""Reader for animated gif and webp files, with Pillow (FFmpeg can't read animated webp)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from PIL import Image

from svdjax.data.frame_reader import Pixels, file_digest
from svdjax.errors import InputError, one_line
from svdjax.media.image_pixels import composite
from svdjax.media.images import WHITE

digest = file_digest


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. Transparent parts are composited over white. `count` is unused."""
    try:
        with Image.open(path, formats=("GIF", "WEBP")) as image:
            for number in itertools.count():
                try:
                    image.seek(number)
                except EOFError:
                    return
                image.load()
                if number >= start:
                    yield lambda: _pixels(image)
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not a gif or webp that can be read") from None
    except InputError:
        raise
    except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
        raise InputError(f"{path}: the animation is damaged or cut short ({one_line(e)})") from None


def is_animated_webp(path: str) -> bool:
    """Whether a file is a webp with the animation flag (Google's WebP container specification, extended header)."""
    try:
        with open(path, "rb") as file:
            head = file.read(21)
    except OSError:
        return False
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 21 and bool(head[20] & 0x02)


def _pixels(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA"))
    return composite(rgba[..., :3], rgba[..., 3], WHITE)
