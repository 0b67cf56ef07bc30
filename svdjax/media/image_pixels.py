"""Conversion of an opened image file to upright 8-bit RGB: transparency, 16 bits, colour profiles, EXIF orientation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from svdjax.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_PILLOW_SCALE_OF_LOW_GREY = {"1": 255, "L;2": 85, "L;4": 17}  # 1, 2 and 4 bits scaled to 0..255
_PNG_16_BIT = ("LA;16B", "RGB;16B", "RGBA;16B")
_UPRIGHT = {  # EXIF 2.32, tag 0x0112: from the stored rows and columns to the upright picture
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def split_alpha(name: str, image: PillowImage.Image, file: BinaryIO) -> tuple[PillowImage.Image, np.ndarray | None, bool]:
    """Load an image's pixels and separate colour from opacity.

    Returns:
        Colour as 8-bit L, RGB or CMYK; opacity as uint8 (H, W) or None; whether the file has 16 bits per channel.

    Raises:
        InputError: pixels without a defined white level (floats, 32-bit integers), or in CIELAB.
    """
    raw_mode = _raw_mode(image)
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return *_split_16_bit(np.asarray(image)[..., None], image.info.get("transparency")), True
    if image.format == "PNG" and raw_mode in _PNG_16_BIT:
        return *_split_16_bit(_read_png_16_bit(file), image.info.get("transparency")), True
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise InputError(f"{name}: its pixels are {kind} without a defined white level, save it with 8 or 16 bits per channel")
    if image.mode == "LAB":
        raise InputError(f"{name}: its pixels are in CIELAB, save it as RGB")
    return *_split_8_bit(image, raw_mode), ";16" in raw_mode


def _split_16_bit(values: np.ndarray, transparent: object) -> tuple[PillowImage.Image, np.ndarray | None]:
    """Colour and opacity of uint16 (H, W, 1 to 4 channels); `transparent` is the transparent colour, or None."""
    from PIL import Image

    alpha = None
    if values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1], _to_8_bits(values[..., -1])
    elif transparent is not None:
        alpha = np.where((values == np.asarray(transparent)).all(-1), 0, 255).astype(np.uint8)
    if values.shape[-1] == 1:
        values = values[..., 0]
    return Image.fromarray(_to_8_bits(values)), alpha


def _split_8_bit(image: PillowImage.Image, raw_mode: str) -> tuple[PillowImage.Image, np.ndarray | None]:
    key = image.info.get("transparency")
    if key is not None and raw_mode in _PILLOW_SCALE_OF_LOW_GREY and key < 16:  # Pillow scales the pixels, but not the key
        image.info["transparency"] = key * _PILLOW_SCALE_OF_LOW_GREY[raw_mode]
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), np.asarray(rgba.getchannel("A"))
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None


def _raw_mode(image: PillowImage.Image) -> str:
    """Pillow's name for the pixel layout in the file. Only known before the pixels are loaded."""
    tile: Any = getattr(image, "tile", None)
    args = tile[0][3] if tile else ""
    return str(args[0] if isinstance(args, (tuple, list)) and args else args)


def _read_png_16_bit(file: BinaryIO) -> np.ndarray:
    """uint16 (H, W, channels), a transparent colour as alpha. Read with FFmpeg: Pillow keeps only the high byte."""
    import av

    file.seek(0)
    with av.open(file, "r", format="png_pipe") as container:
        frame = next(container.decode(video=0))
    plane, channels = frame.planes[0], len(frame.format.components)
    buffer: Any = plane  # implements the buffer protocol, which av's stub can't express before Python 3.12
    rows = np.frombuffer(buffer, ">u2").reshape(-1, plane.line_size // 2)  # rows are padded
    return rows[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """round(v / 257): maps 0..65535 to 0..255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_srgb(colour: PillowImage.Image, profile: bytes | None) -> tuple[np.ndarray, str | None]:
    """uint8 (H, W, 3) in sRGB, and a note for the user or None. Pixels without a profile are assumed to be sRGB."""
    note = None
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            core: Any = source.profile  # a CmsProfile, for which Pillow's stub has another type
            space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(core.xcolor_space.strip())
            title = one_line(ImageCms.getProfileDescription(source))
            if space == colour.mode and "srgb" not in title.lower():
                srgb = ImageCms.createProfile("sRGB")
                colour = ImageCms.profileToProfile(colour, source, srgb, outputMode="RGB") or colour  # never None here
                note = f"colours converted to sRGB from its profile {title}"
        except (ImageCms.PyCMSError, OSError, ValueError):
            note = "its colour profile can't be read and is ignored"
    return np.asarray(colour.convert("RGB")), note


def composite(pixels: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Blend uint8 pixels (H, W, 3) over a plain background, rounded to nearest. uint16 suffices: 255 * 255 + 127 < 2**16."""
    a = alpha[..., None].astype(np.uint16)
    under = np.asarray(background, np.uint16)
    return ((pixels * a + under * (255 - a) + 127) // 255).astype(np.uint8)


def upright(image: PillowImage.Image, pixels: np.ndarray) -> np.ndarray:
    """Rotate and mirror pixels (H, W, 3) by the image's EXIF orientation (Pillow itself applies it only to TIFF)."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # good pixels are usable even if the EXIF block is broken
        orientation = 1
    return _UPRIGHT.get(orientation, lambda x: x)(pixels)
