"""Reading of image files: upright 8-bit sRGB pixels, or an error line that says why the file can't be used."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.media.image_pixels import composite, split_alpha, to_srgb, upright

if TYPE_CHECKING:
    from PIL import Image as PillowImage

# Pillow's other formats are left out on purpose: some start other programs, some accept arbitrary bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000")

# Larger images are refused before their pixels are decoded. Cameras have up to about 108 million pixels, of 3 bytes each here.
MAX_PIXELS = 2**27

WHITE = (255, 255, 255)

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"FLV\x01", b"OggS", b"\x30\x26\xb2\x75")


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
    Other colour profiles are converted to sRGB. 16 bits become 8 by round(v / 257), so 65535 becomes 255; only a 16-bit RGB
    TIFF keeps the high byte (Pillow's reader), at most one level darker. Palette, CMYK, grey and 1-bit images become RGB. Of
    several frames or pages the first is used. 32-bit integer and float pixels are refused, because their white level is
    unknown.

    Args:
        path: the file, in one of `FORMATS`.
        background: RGB, 0..255, behind transparent parts.

    Returns:
        uint8 (H, W, 3), and notes for the user about conversions: one line each, beginning with the file's name.

    Raises:
        InputError: the file is missing, a folder, empty, unreadable, damaged, a video, above `MAX_PIXELS`, or not an image
            of a supported format.
    """
    name = os.fspath(path)
    _check_file(name)
    try:
        with open(name, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # relevant conditions are errors or notes here
            return _read(name, file, background)
    except PermissionError:
        raise InputError(f"{name}: no permission to read it") from None


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
    with _open(name, file) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"{name}: {width}x{height} pixels, expected at most {MAX_PIXELS // 10**6} million")
        try:
            return _decode(name, image, file, background)
        except InputError:
            raise
        except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
            raise InputError(f"{name}: the image is damaged or cut short ({one_line(e)})") from None


def _open(name: str, file: BinaryIO) -> PillowImage.Image:
    """Read only the header."""
    from PIL import Image

    head = file.read(12)
    file.seek(0)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _HEIC_BRANDS:
        raise InputError(f"{name}: HEIC images can't be read, save it as PNG or JPEG first")
    quicktime = head[4:8] in _QUICKTIME_ATOMS and brand not in _AVIF_BRANDS
    if quicktime or head.startswith(_VIDEO_STARTS) or (head[:4] == b"RIFF" and head[8:] == b"AVI "):
        raise InputError(f"{name}: is a video, expected an image; save one of its frames as PNG first")
    Image.init()
    known = [f for f in FORMATS if f in Image.OPEN]  # AVIF and JPEG 2000 are optional in builds of Pillow
    try:
        return Image.open(file, formats=known)
    except Image.DecompressionBombError:
        raise InputError(f"{name}: far too many pixels, expected at most {MAX_PIXELS // 10**6} million") from None
    except Image.UnidentifiedImageError:
        raise InputError(f"{name}: not an image of a supported format, expected {', '.join(known)}") from None
    except Exception as e:
        raise InputError(f"{name}: the image is damaged or cut short ({one_line(e)})") from None


def _decode(
    name: str, image: PillowImage.Image, file: BinaryIO, background: tuple[int, int, int]
) -> tuple[np.ndarray, list[str]]:
    notes = []
    if getattr(image, "default_image", False):  # an APNG with a still picture that isn't part of its animation
        image.seek(1)
    colour, alpha, deep = split_alpha(name, image, file)
    if deep:
        notes.append(f"{name}: 16 bits per channel scaled to 8")
    pixels, note = to_srgb(colour, image.info.get("icc_profile"))
    if note:
        notes.append(f"{name}: {note}")
    if alpha is not None and alpha.min() < 255:
        pixels = composite(pixels, alpha, background)
        notes.append(f"{name}: transparent parts shown over the background rgb{tuple(background)}")
    pixels = upright(image, pixels)
    # Last, because counting the frames of a GIF moves to another frame. The other pictures of an MPO (a JPEG of many phones)
    # are previews and depth maps.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"{name}: holds {frames} frames, the first is used")
    return np.ascontiguousarray(pixels), notes
