"""Reading of image files: upright 8-bit sRGB pixels, or an error line that says why the file can't be used."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.media.colours import colour_space, to_srgb
from svdjax.media.heic import read_heic
from svdjax.media.image_kinds import check_image, first_full_page
from svdjax.media.image_pixels import composite, orientation_of, split_16_bit, split_alpha, upright
from svdjax.media.quiet import no_standard_error

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from svdjax.media.colour_profiles import ColourSpace

# Pillow's other formats are left out on purpose: some start other programs, some accept arbitrary bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")

# Larger images are refused before their pixels are decoded. Cameras have up to about 108 million pixels, of 3 bytes each here.
MAX_PIXELS = 2**27

WHITE = (255, 255, 255)


def load_keyframes(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[np.ndarray], list[str]]:
    """Load two or more keyframes with `load_image`.

    Returns:
        One uint8 (H, W, 3) array per path, each at its own size, and the notes of all files.

    Raises:
        InputError: fewer than two paths, or see `load_image`.
    """
    paths = list(paths)
    if len(paths) < 2:
        raise InputError(f"expected at least two keyframes, got {len(paths)}")
    images, notes = [], []
    for path in paths:
        image, its_notes = load_image(path)
        images.append(image)
        notes += its_notes
    return images, notes


def load_image(path: str | os.PathLike[str], background: tuple[int, int, int] = WHITE) -> tuple[np.ndarray, list[str]]:
    """Load one image file as an image viewer would show it.

    EXIF orientation is applied. Transparency (an alpha channel or a transparent colour) is composited over `background`.
    Other colour spaces are converted to sRGB (see `svdjax.media.colours.colour_space`). 16 bits become 8 by round(v / 257), so
    65535 becomes 255; only a 16-bit RGB TIFF in a layout that FFmpeg doesn't read keeps the high byte (Pillow's reader), at
    most one level darker. Palette, CMYK, grey and 1-bit images become RGB. Of several frames or pages the first is used; in a
    TIFF, the first that isn't a preview. 32-bit integer and float pixels are refused, because their white level is unknown.

    Args:
        path: the file, in one of `FORMATS`, or HEIC if pillow-heif is installed.
        background: RGB, 0..255, behind transparent parts.

    Returns:
        uint8 (H, W, 3), and notes for the user about conversions: one line each, beginning with the file's name.

    Raises:
        InputError: the file is missing, a folder, empty, unreadable, damaged, a video, a raw photograph, of high dynamic
            range, above `MAX_PIXELS`, or not an image of a supported format.
    """
    name = os.fspath(path)
    _check_file(name)
    try:
        with open(name, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # relevant conditions are errors or notes here
            return _read(name, file, background)
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None


def read_shape(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """The shape (H, W, 3) of the array that `load_image` returns, from the file's header where that is enough.

    Raises:
        InputError: the file can't be read; damage behind the header is not noticed.
    """
    name = os.fspath(path)
    _check_file(name)
    try:
        with open(name, "rb") as file, _open(name, file) as image:
            width, height = image.size
            if image.format in ("PNG", "JPEG", "WEBP", "BMP", "PPM") and width * height <= MAX_PIXELS:
                # a PNG's orientation may follow its pixels, where only decoding would find it
                known = image.format != "PNG" or "exif" in image.info
                return (width, height, 3) if known and orientation_of(image) > 4 else (height, width, 3)
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None
    except InputError:
        pass  # such as HEIC, which Pillow doesn't know
    return load_image(name)[0].shape


def _check_file(name: str) -> None:
    try:
        info = os.stat(name)
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise InputError(f"{name}: no such file") from None
    if stat.S_ISDIR(info.st_mode):
        raise InputError(f"{name}: is a folder, expected an image file")
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{name}: is not a regular file, expected an image file")
    if info.st_size == 0:
        raise InputError(f"{name}: the file is empty, expected an image")


def _read(name: str, file: BinaryIO, background: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    if _damaged(name, lambda: check_image(name, file)):
        return _damaged(name, lambda: _decode_heic(name, file, background))
    with _open(name, file) as image, no_standard_error() if image.format == "TIFF" else contextlib.nullcontext():
        return _damaged(name, lambda: _decode(name, image, file, background))


_T = TypeVar("_T")


def _damaged(name: str, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{name}: there is not enough memory for its pixels") from None
    except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
        raise InputError(f"{name}: the image is damaged or cut short ({one_line(e) or type(e).__name__})") from None


def _open(name: str, file: BinaryIO) -> PillowImage.Image:
    """Read only the header."""
    from PIL import Image

    Image.init()
    known = [f for f in FORMATS if f in Image.OPEN]  # AVIF and JPEG 2000 are optional in builds of Pillow
    try:
        return Image.open(file, formats=known)
    except Image.DecompressionBombError:
        raise InputError(f"{name}: far too many pixels, expected at most {MAX_PIXELS // 10**6} million") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: not an image of a supported format, expected {', '.join(known)}") from None
    except Exception as e:
        raise InputError(f"{name}: the image is damaged or cut short ({one_line(e) or type(e).__name__})") from None


def _decode(
    name: str, image: PillowImage.Image, file: BinaryIO, background: tuple[int, int, int]
) -> tuple[np.ndarray, list[str]]:
    from PIL import TiffImagePlugin

    page = first_full_page(name, image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width}x{height} pixels, expected at most {MAX_PIXELS // 10**6} million")
    if getattr(image, "default_image", False):  # an APNG with a still picture that isn't part of its animation
        image.seek(1)
    colour, alpha, deep = split_alpha(name, image, file)
    pixels, notes = _finished(name, colour, alpha, colour_space(name, image, file), background)
    if deep:
        notes.insert(0, f"{name}: 16 bits per channel scaled to 8")
    pixels = upright(image, pixels)
    # Last, because counting the frames of a GIF moves to another frame. The other pictures of an MPO (a JPEG of many phones)
    # are previews and depth maps.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if page:
        notes.append(f"{name}: holds {frames} images, image {page + 1} is used, those before it are previews")
    elif frames > 1:
        notes.append(f"{name}: holds {frames} frames, the first is used")
    return np.ascontiguousarray(pixels), notes


def _decode_heic(name: str, file: BinaryIO, background: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    image, deep, images = read_heic(name, file, MAX_PIXELS)
    space = colour_space(name, image)
    colour, alpha, _ = split_alpha(name, image, file) if deep is None else (*split_16_bit(deep, None), True)
    pixels, notes = _finished(name, colour, alpha, space, background)
    if deep is not None:
        notes.insert(0, f"{name}: {image.info.get('bit_depth')} bits per channel scaled to 8")
    if images > 1:
        notes.append(f"{name}: holds {images} images, the main one is used")
    return np.ascontiguousarray(pixels), notes


def _finished(
    name: str,
    colour: PillowImage.Image | np.ndarray,
    alpha: np.ndarray | None,
    space: ColourSpace | bytes | None,
    background: tuple[int, int, int],
) -> tuple[np.ndarray, list[str]]:
    """Colours in sRGB over the background, and notes."""
    pixels, note = to_srgb(colour, space)
    notes = [f"{name}: {note}"] if note else []
    if alpha is not None and alpha.min() < 255:
        pixels = composite(pixels, alpha, background)
        notes.append(f"{name}: transparent parts shown over the background rgb{tuple(background)}")
    return pixels, notes
