"""Conversion of an image's colours to sRGB, by the content of its colour profile or of its colour tags."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from svdjax.errors import one_line
from svdjax.media.colour_profiles import ColourSpace, from_code_points, from_gamma, from_icc
from svdjax.media.image_pixels import to_8_bits

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_HEAD = 2**18  # bytes of an AVIF file; its description comes before its pixels
_UNREADABLE = "its colour profile can't be read and is ignored"


def colour_space(name: str, image: PillowImage.Image, file: BinaryIO | None = None) -> ColourSpace | bytes | None:
    """What a file says about its colours: an ICC profile as bytes, or tags. None stands for sRGB.

    In a PNG cICP comes before an ICC profile, then sRGB, then gAMA with cHRM, as the PNG specification says; in AVIF and HEIC
    an ICC profile comes before code points.

    Args:
        name: the file, for messages.
        image: opened with Pillow.
        file: the same file; without it only the tags that Pillow knows are used.

    Raises:
        InputError: high dynamic range.
    """
    info = image.info
    if image.format == "PNG" and file is not None and (points := _cicp(file)):
        return from_code_points(*points, name)
    if profile := info.get("icc_profile"):
        return profile
    if image.format == "PNG" and "gamma" in info and "srgb" not in info:
        return from_gamma(info["gamma"], info.get("chromaticity"))
    points = None
    if nclx := info.get("nclx_profile"):  # pillow-heif
        points = nclx["color_primaries"], nclx["transfer_characteristics"]
    elif image.format == "AVIF" and file is not None:
        points = _nclx(file)
    return from_code_points(*points, name) if points else None


def _cicp(file: BinaryIO) -> tuple[int, int] | None:
    """Primaries and transfer of a PNG's chunk cICP (PNG specification, 3rd edition, 11.3.2.6)."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            return None
        if kind == b"cICP":
            points = file.read(2)
            return (points[0], points[1]) if len(points) == 2 else None
        file.seek(length + 4, 1)
    return None


def _nclx(file: BinaryIO) -> tuple[int, int] | None:
    """Primaries and transfer of the first `colr` box with code points (ISO/IEC 14496-12, 12.1.5)."""
    file.seek(0)
    _, found, rest = file.read(_HEAD).partition(b"colrnclx")
    return struct.unpack(">HH", rest[:4]) if found and len(rest) >= 4 else None


def to_srgb(colour: PillowImage.Image | np.ndarray, space: ColourSpace | bytes | None) -> tuple[np.ndarray, str | None]:
    """Convert colours to sRGB, unless they are in sRGB, whatever the title of their profile.

    Args:
        colour: 8-bit L, RGB or CMYK, or uint16 (H, W, 1 or 3).
        space: an ICC profile, or see `colour_space`; None for sRGB.

    Returns:
        uint8 (H, W, 3), and a note for the user or None.
    """
    if isinstance(space, bytes):
        try:
            title = _title(space)
            parsed = from_icc(space, title)
            if parsed is None:
                return _with_tables(colour, space, title)
            space = parsed
            note = f"colours converted to sRGB from its profile {title}"
        except Exception:  # of nearly any kind: profiles are parsed only as far as they are used
            return _plain(colour), _UNREADABLE
    else:
        note = None if space is None else f"colours converted to sRGB from its {space.title}"
    if space is None or space.is_srgb():
        return _plain(colour), None
    values = colour if isinstance(colour, np.ndarray) else np.asarray(colour)
    grey = values.ndim == 2 or values.shape[-1] == 1
    if (values.ndim == 3 and values.shape[-1] == 4) or (space.grey and not grey):
        return _plain(colour), f"its colour profile {space.title} is for other pixels than its own and is ignored"
    if grey:
        values = np.broadcast_to(values.reshape(*values.shape[:2], 1), (*values.shape[:2], 3))
    return space.to_srgb(values), note


def _plain(colour: PillowImage.Image | np.ndarray) -> np.ndarray:
    if isinstance(colour, np.ndarray):
        colour = to_8_bits(colour)
        return colour if colour.shape[-1] == 3 else colour.repeat(3, -1)
    return np.asarray(colour.convert("RGB"))


def _title(profile: bytes) -> str:
    from PIL import ImageCms

    try:
        return one_line(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))), 100)
    except Exception:  # the title is only for the note
        return "without a title"


def _with_tables(colour: PillowImage.Image | np.ndarray, profile: bytes, title: str) -> tuple[np.ndarray, str | None]:
    """Convert with LittleCMS, which reads tables of colours, in 8 bits."""
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    core: Any = source.profile  # a CmsProfile, for which Pillow's stub has another type
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(core.xcolor_space.strip())
    if isinstance(colour, np.ndarray):
        pixels = to_8_bits(colour)
        colour = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    if mode == "RGB" and colour.mode == "L":
        colour = colour.convert("RGB")
    if mode is None or mode != colour.mode:
        return _plain(colour), f"its colour profile {title} is for other pixels than its own and is ignored"
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "RGB":
        steps = np.arange(0, 256, 17, dtype=np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        shown = ImageCms.applyTransform(Image.fromarray(grid), transform)
        if shown is not None and np.abs(np.asarray(shown).astype(int) - grid).max() <= 2:  # LittleCMS rounds twice
            return _plain(colour), None
    converted = ImageCms.applyTransform(colour, transform)
    return np.asarray(converted), f"colours converted to sRGB from its profile {title}"
