"""Output sizes, and fitting of images to them: crop, pad or stretch."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.scalars import whole_number

FITS = ("crop", "pad", "stretch")

SVD_SIZE = (1024, 576)  # width, height: the training resolution of SVD and SVD-XT

PAD_COLOUR = (0, 0, 0)


def parse_size(text: str) -> tuple[int, int]:
    """Parse `"1024x576"` to (width, height).

    Raises:
        InputError: not two positive integers with an x between them.
    """
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip(), re.ASCII)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if width == 0 or height == 0:
        raise InputError(f"size {text!r}: expected WIDTHxHEIGHT in pixels, such as 1024x576")
    return width, height


def check_size(width: int, height: int, multiple: int) -> None:
    """Refuse a size that the model can't halve at every level.

    Args:
        width, height: pixels.
        multiple: both sides must be positive multiples of it (`SVDConfig.size_multiple`).

    Raises:
        InputError: another size; the message names the nearest valid sizes, nearest first.
    """
    if width > 0 and height > 0 and width % multiple == 0 and height % multiple == 0:
        return

    def nearest(side: int) -> set[int]:
        return {max(side // multiple, 1) * multiple, max(-(-side // multiple), 1) * multiple}

    sizes = sorted(
        itertools.product(nearest(width), nearest(height)),
        key=lambda size: (size[0] - width) ** 2 + (size[1] - height) ** 2,
    )
    names = " or ".join(f"{w}x{h}" for w, h in sizes[:2])
    raise InputError(f"size {width}x{height}: both sides must be multiples of {multiple}; nearest: {names}")


def default_size(first_image_shape: tuple[int, ...], config_size: tuple[int, int] = SVD_SIZE) -> tuple[int, int]:
    """The model's default size in the orientation of the first keyframe.

    Args:
        first_image_shape: (H, W, ...). For a square keyframe the default size is returned unchanged.
        config_size: the model's default (width, height).

    Returns:
        (width, height).
    """
    height, width = first_image_shape[:2]
    long, short = max(config_size), min(config_size)
    if height == width:
        return config_size[0], config_size[1]
    return (short, long) if height > width else (long, short)


def fit(image: np.ndarray, size: tuple[int, int], mode: str = "crop", colour: tuple[int, int, int] = PAD_COLOUR) -> np.ndarray:
    """Bring an image to exactly `size`. An image that already has this size is returned unchanged.

    `crop` scales the image to cover the size and cuts the excess equally on both sides. `pad` scales it to fit inside and
    fills the rest with `colour`. `stretch` ignores the aspect ratio. Scaling uses Pillow's Lanczos filter (3 lobes), which
    keeps the most detail of Pillow's filters and is antialiased, because its support grows with the reduction.

    Args:
        image: uint8 (H, W, 3).
        size: (width, height).
        mode: `crop`, `pad` or `stretch`.
        colour: of the bars of `pad`, RGB, 0..255.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: an unknown mode, an image of another dtype or shape, or a size that isn't two whole numbers above 0.
    """
    _check_mode(mode)
    size = _checked_size(size)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise InputError(f"image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    if mode == "stretch":
        return _resize(image, size)
    if mode == "crop":
        return _resize(image, size, _crop_box((width, height), size))
    inner = _padded_size((width, height), size)
    scaled = image if inner == (width, height) else _resize(image, inner)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out = np.empty((size[1], size[0], 3), np.uint8)
    out[:] = colour
    out[top : top + inner[1], left : left + inner[0]] = scaled
    return out


def describe_fit(name: str, shape: tuple[int, ...], size: tuple[int, int], mode: str = "crop") -> str | None:
    """Describe the effect of `fit` in one line for the user; None if the image stays unchanged.

    Args:
        name: the file.
        shape: of the image, (H, W, ...).
        size, mode: see `fit`.
    """
    _check_mode(mode)
    source = (shape[1], shape[0])
    if source == size:
        return None
    if mode == "crop":
        left, top, right, bottom = _crop_box(source, size)
        part = (right - left, bottom - top)
        cut = _missing(part, source)
        changes = [word for word, done in (("scaled", part != size), ("cropped", cut)) if done]
        detail = f", {cut} cut" if cut else ""
    elif mode == "pad":
        inner = _padded_size(source, size)
        bars = _missing(inner, size)
        changes = [word for word, done in (("scaled", inner != source), ("padded", bars)) if done]
        detail = f", bars on {bars}" if bars else ""
    else:
        wider = (size[0] * source[1]) / (size[1] * source[0])
        changes = ["scaled" if wider == 1 else "stretched"]
        detail = "" if wider == 1 else f", {_percent(abs(wider - 1))} {'wider' if wider > 1 else 'narrower'} than it was"
    return f"{name} {source[0]}x{source[1]}: {' and '.join(changes)} to {size[0]}x{size[1]}{detail}"


def _check_mode(mode: str) -> None:
    if mode not in FITS:
        raise InputError(f"fit is {mode!r}, expected one of {', '.join(FITS)}")


def _checked_size(size: Any) -> tuple[int, int]:
    """(width, height) as Python ints, from a tuple, a list or an array."""
    width, height = map(whole_number, size) if np.shape(size) == (2,) else (None, None)
    if width is None or height is None or min(width, height) < 1:
        raise InputError(f"size is {one_line(repr(size), 60)}, expected two whole numbers above 0, width and height")
    return width, height


def _missing(part: tuple[float, float], whole: tuple[int, int]) -> str | None:
    """The share of `whole` (width, height) that `part` lacks, such as `25% of its height`, or None."""
    for side, has, of in zip(("width", "height"), part, whole, strict=True):
        if has < of:
            return f"{_percent(1 - has / of)} of its {side}"
    return None


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else f"{share:.0%}"


def _crop_box(source: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The centred box (left, top, right, bottom) of `source` with the aspect ratio of `size`, in source pixels.

    Fractional, so that rounding neither shifts nor distorts the image. Whole pixels if there is no scaling, so that pixels
    are copied.
    """
    scale = max(size[0] / source[0], size[1] / source[1])
    if scale == 1:
        left, top = (source[0] - size[0]) // 2, (source[1] - size[1]) // 2
        return left, top, left + size[0], top + size[1]
    wide = source[0] * size[1] >= source[1] * size[0]
    width = source[1] * size[0] / size[1] if wide else source[0]
    height = source[1] if wide else source[0] * size[1] / size[0]
    left, top = (source[0] - width) / 2, (source[1] - height) / 2
    return left, top, left + width, top + height


def _padded_size(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest size with the aspect ratio of `source` inside `size`, rounded to whole pixels, at least 1."""
    wide = source[0] * size[1] >= source[1] * size[0]
    if wide:
        return size[0], max(1, round(source[1] * size[0] / source[0]))
    return max(1, round(source[0] * size[1] / source[1])), size[1]


def _resize(image: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    from PIL import Image

    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box))
