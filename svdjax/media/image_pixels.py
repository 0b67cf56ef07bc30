"""From an opened image file to upright 8-bit RGB pixels: transparency, 16 bits, colour profiles, EXIF orientation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from svdjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_PILLOW_SCALE_OF_LOW_GREY = {"1": 255, "L;2": 85, "L;4": 17}  # 1, 2 and 4 bits spread over 0..255
_PNG_16_BIT = ("LA;16B", "RGB;16B", "RGBA;16B")
_UPRIGHT = {  # EXIF 2.32, tag 0x0112: how the stored rows and columns become the picture
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def one_line(reason: object) -> str:
    """Text of another library, fit for a message of one line."""
    return " ".join(str(reason).split())


def split_alpha(name: str, image: PillowImage.Image, file: BinaryIO) -> tuple[PillowImage.Image, np.ndarray | None, bool]:
    """Colour as 8-bit L, RGB or CMYK; opacity as uint8 (H, W) or None; whether the file had 16 bits a channel."""
    from PIL import Image

    raw_mode = _raw_mode(image)
    image.load()
    mode, key = image.mode, image.info.get("transparency")
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)[..., None]
    elif image.format == "PNG" and raw_mode in _PNG_16_BIT:
        values = _read_png_16_bit(file)
    elif mode in ("I", "F"):
        kind = "floats" if mode == "F" else "32-bit integers"
        raise InputError(f"{name}: its pixels are {kind} with no fixed white, save it with 8 or 16 bits a channel")
    elif mode == "LAB":
        raise InputError(f"{name}: its pixels are in CIELAB, save it as RGB")
    else:
        if key is not None and raw_mode in _PILLOW_SCALE_OF_LOW_GREY and key < 16:  # Pillow scales the pixels only
            image.info["transparency"] = key * _PILLOW_SCALE_OF_LOW_GREY[raw_mode]
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            return rgba.convert("RGB"), np.asarray(rgba.getchannel("A")), ";16" in raw_mode
        return image if mode in ("L", "RGB", "CMYK") else image.convert("RGB"), None, ";16" in raw_mode
    alpha = None
    if values.shape[-1] in (2, 4):
        values, alpha = values[..., :-1], _to_8_bits(values[..., -1])
    elif key is not None:
        alpha = np.where((values == np.asarray(key)).all(-1), 0, 255).astype(np.uint8)
    if values.shape[-1] == 1:
        values = values[..., 0]
    return Image.fromarray(_to_8_bits(values)), alpha, True


def _raw_mode(image: PillowImage.Image) -> str:
    """How the pixels are laid out in the file, in Pillow's terms; known until they are loaded."""
    args: Any = image.tile[0][3] if image.tile else ""
    return str(args[0] if isinstance(args, (tuple, list)) and args else args)


def _read_png_16_bit(file: BinaryIO) -> np.ndarray:
    """uint16 (H, W, channels), a transparent colour as alpha. Pillow keeps the high byte alone; FFmpeg's decoder both."""
    import av

    file.seek(0)
    with av.open(file, format="png_pipe") as container:
        frame = next(container.decode(video=0))
    plane, channels = frame.planes[0], len(frame.format.components)
    rows = np.frombuffer(plane, ">u2").reshape(-1, plane.line_size // 2)  # rows are padded
    return rows[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """round(v / 257): 0..65535 to 0..255, each of them reached exactly."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_srgb(colour: PillowImage.Image, profile: bytes | None) -> tuple[np.ndarray, str | None]:
    """uint8 (H, W, 3) in sRGB, and what to tell the user, if anything. Without a profile the pixels are taken as sRGB."""
    note = None
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip())
            title = one_line(ImageCms.getProfileDescription(source))
            if space == colour.mode and "srgb" not in title.lower():
                colour = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
                note = f"colours converted to sRGB from its profile {title}"
        except (ImageCms.PyCMSError, OSError, ValueError):
            note = "its colour profile can't be read and is ignored"
    return np.asarray(colour.convert("RGB")), note


def composite(pixels: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Over a plain background, rounded to nearest. uint16 holds 255 * 255 + 127."""
    a = alpha[..., None].astype(np.uint16)
    under = np.asarray(background, np.uint16)
    return ((pixels * a + under * (255 - a) + 127) // 255).astype(np.uint8)


def upright(image: PillowImage.Image, pixels: np.ndarray) -> np.ndarray:
    """Turn and mirror pixels (H, W, 3) by the EXIF orientation of the loaded image, which Pillow applies only to TIFF."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block is no reason to refuse good pixels
        orientation = 1
    return _UPRIGHT.get(orientation, lambda x: x)(pixels)
