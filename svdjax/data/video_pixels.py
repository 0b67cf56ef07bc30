"""Conversion of decoded video frames to upright sRGB pixels: colour matrix, transparency, pixel shape, display matrix."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.image_pixels import composite
from svdjax.media.images import MAX_PIXELS, WHITE

_MATRICES = {  # ITU-T H.273, table 4
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# With chroma interpolation and accurate rounding; swscale's faster default is 1 to 1.5 levels too dark.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_MAX_ASPECT = 16  # of one pixel; more is a damaged header
_UPRIGHT_TOLERANCE = 0.02  # about 1 degree

Matrix = tuple[int, int, int, int]  # (a, b, c, d): the point (x, y) is shown at (a x + c y, b x + d y), y downwards
UPRIGHT: Matrix = (1, 0, 0, 1)


def pixels(path: str, frame: av.VideoFrame, aspect: Fraction, matrix: Matrix) -> np.ndarray:
    """A frame as a player shows it: uint8 (H, W, 3), upright, with square pixels, transparency over white.

    Args:
        path: for messages.
        frame: from the decoder.
        aspect: width / height of a stored pixel.
        matrix: see `display_matrix`.

    Raises:
        InputError: the pixels can't be converted, or are too many.
    """
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        raise InputError(
            f"{path}: its pixels are {float(aspect):.4g} times as wide as high, expected 1/{_MAX_ASPECT} to {_MAX_ASPECT}"
        )
    width = max(1, round(frame.width * aspect))
    if max(width, frame.width) * frame.height > MAX_PIXELS:
        raise InputError(f"{path}: {width}x{frame.height} pixels, expected at most {MAX_PIXELS // 10**6} million")
    try:
        rgb = _to_rgb(frame)
    except (FFmpegError, ValueError) as e:
        raise InputError(f"{path}: its pixels ({frame.format.name}) can't be read ({e})") from None
    if width != rgb.shape[1]:
        rgb = np.asarray(Image.fromarray(rgb).resize((width, rgb.shape[0]), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(_shown(rgb, matrix))


def display_matrix(path: str, frame: av.VideoFrame) -> Matrix:
    """The display matrix of a frame (ISO/IEC 14496-12, 6.2.2) as signs: a rotation by a multiple of 90 degrees, or a mirror.

    Its scale and shift are ignored, as FFmpeg does. A matrix without an inverse is damaged, and ignored too.

    Raises:
        InputError: another rotation, or a shear.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))  # 16.16 fixed point, in the machine's byte order
    if a * d - b * c == 0:
        return UPRIGHT
    small = _UPRIGHT_TOLERANCE * max(map(abs, (a, b, c, d)))
    if max(abs(b), abs(c)) <= small:
        return _sign(a), 0, 0, _sign(d)
    if max(abs(a), abs(d)) <= small:
        return 0, _sign(b), _sign(c), 0
    angle = math.degrees(math.atan2(b, a))
    raise InputError(f"{path}: its display matrix rotates it by {angle:.0f} degrees, expected a multiple of 90")


def _sign(value: int) -> int:
    return 1 if value > 0 else -1


def _shown(rgb: np.ndarray, matrix: Matrix) -> np.ndarray:
    a, b, c, d = matrix
    return rgb[::d, ::a] if a else rgb.swapaxes(0, 1)[::b, ::c]


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    wide = frame.width >= 1280 or frame.height > 576
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    colours = {
        "src_colorspace": _MATRICES.get(frame.colorspace, Colorspace.ITU709 if wide else Colorspace.ITU601),
        "src_color_range": ColorRange.JPEG if full or frame.format.is_rgb else ColorRange.MPEG,
        "interpolation": _SCALING,
    }
    if has_alpha(frame):
        rgba = frame.to_ndarray(format="rgba", **colours)
        return composite(rgba[..., :3], rgba[..., 3], WHITE)
    return frame.to_ndarray(format="rgb24", **colours)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether the pixel format has opacity. That of palettes (`pal8`) is in their colours."""
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)
