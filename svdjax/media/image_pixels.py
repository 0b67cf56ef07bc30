"""Conversion of an opened image file to upright 8-bit RGB: transparency, 16 bits, EXIF orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from svdjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_PILLOW_SCALE_OF_LOW_GREY = {"1": 255, "L;2": 85, "L;4": 17}  # 1, 2 and 4 bits scaled to 0..255
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR = 258, 259, 262, 284  # TIFF 6.0
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


def split_alpha(
    name: str, image: PillowImage.Image, file: BinaryIO
) -> tuple[PillowImage.Image | np.ndarray, np.ndarray | None, bool]:
    """Load an image's pixels and separate colour from opacity.

    Returns:
        Colour as 8-bit L, RGB or CMYK, or as uint16 (H, W, 1 or 3); opacity as uint8 (H, W) or None; whether the file has 16
        bits per channel.

    Raises:
        InputError: pixels without a defined white level (floats, 32-bit integers), or in CIELAB.
    """
    raw_mode = _raw_mode(image)
    orientation = orientation_of(image) if image.format == "TIFF" else 1  # Pillow removes it when it loads the pixels
    if image.format == "TIFF" and _has_16_bit_planes(image):
        return *split_16_bit(_read_16_bit_planes(name, file, orientation), None), True
    image.load()
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint16)[..., None]
        if image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == 0:  # 0 is white; Pillow inverts only 8 bits
            values = 65535 - values
        return *split_16_bit(values, transparent), True
    if image.format == "PNG" and raw_mode in _PNG_16_BIT:
        return *split_16_bit(_read_16_bit(file, "png_pipe"), transparent), True
    if image.format == "TIFF" and image.mode == "RGB" and ";16" in raw_mode:
        deep = _tiff_16_bit(image, file, orientation)
        return (image if deep is None else deep), None, True
    if image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise InputError(f"{name}: its pixels are {kind} without a defined white level, save it with 8 or 16 bits per channel")
    if image.mode == "LAB":
        raise InputError(f"{name}: its pixels are in CIELAB, save it as RGB")
    return *_split_8_bit(image, raw_mode), ";16" in raw_mode


def split_16_bit(values: np.ndarray, transparent: object) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and opacity of uint16 (H, W, 1 to 4 channels); `transparent` is the transparent colour, or None."""
    if values.shape[-1] in (2, 4):
        return values[..., :-1], to_8_bits(values[..., -1])
    if transparent is None:
        return values, None
    return values, np.where((values == np.asarray(transparent)).all(-1), 0, 255).astype(np.uint8)


def _split_8_bit(image: PillowImage.Image, raw_mode: str) -> tuple[PillowImage.Image, np.ndarray | None]:
    key = image.info.get("transparency")
    if key is not None and raw_mode in _PILLOW_SCALE_OF_LOW_GREY and key < 16:  # Pillow scales the pixels, but not the key
        image.info["transparency"] = key * _PILLOW_SCALE_OF_LOW_GREY[raw_mode]
    plain = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"  # grey stays grey, for profiles of grey pixels
    if image.has_transparency_data:
        with_alpha = image.convert("LA" if plain == "L" else "RGBA")
        return with_alpha.convert(plain), np.asarray(with_alpha.getchannel("A"))
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert(plain), None


def _raw_mode(image: PillowImage.Image) -> str:
    """Pillow's name for the pixel layout in the file. Only known before the pixels are loaded."""
    tile: Any = getattr(image, "tile", None)
    args = tile[0][3] if tile else ""
    return str(args[0] if isinstance(args, (tuple, list)) and args else args)


def _read_16_bit(file: BinaryIO, demuxer: str) -> np.ndarray:
    """uint16 (H, W, channels), a transparent colour as alpha. Read with FFmpeg: Pillow keeps only the high byte."""
    import av

    file.seek(0)
    with av.open(file, "r", format=demuxer) as container:
        frame = next(container.decode(video=0))
    order = ">u2" if frame.format.is_big_endian else "<u2"
    channels = len(frame.format.components) // len(frame.planes)
    planes = []
    for plane in frame.planes:
        buffer: Any = plane  # implements the buffer protocol, which av's stub can't express before Python 3.12
        rows = np.frombuffer(buffer, order).reshape(-1, plane.line_size // 2)  # rows are padded
        planes.append(rows[: frame.height, : frame.width * channels].reshape(frame.height, frame.width, channels))
    if len(planes) > 1:  # FFmpeg's order is green, blue, red, opacity
        planes = [planes[i] for i in (2, 0, 1, 3)[: len(planes)]]
    return np.concatenate(planes, -1).astype(np.uint16)


def _tag(image: PillowImage.Image, number: int) -> Any:
    tags: Any = image  # a TiffImageFile
    return tags.tag_v2.get(number)


def _has_16_bit_planes(image: PillowImage.Image) -> bool:
    """Whether a TIFF stores 16-bit colours in separate planes without compression: Pillow would mix them up."""
    bits = _tag(image, _BITS) or (1,)
    return _tag(image, _PLANAR) == 2 and len(bits) > 1 and max(bits) == 16 and _tag(image, _COMPRESSION) in (None, 1)


def _read_16_bit_planes(name: str, file: BinaryIO, orientation: int) -> np.ndarray:
    try:
        return _UPRIGHT.get(orientation, lambda x: x)(_read_16_bit(file, "tiff_pipe"))
    except Exception as e:
        raise InputError(f"{name}: its 16-bit colour planes can't be read ({e}), save it with 8 bits") from None


def _tiff_16_bit(image: PillowImage.Image, file: BinaryIO, orientation: int) -> np.ndarray | None:
    """uint16 (H, W, 3), upright, of a TIFF that Pillow has loaded with 8 bits; None if FFmpeg reads another picture."""
    try:
        values = _UPRIGHT.get(orientation, lambda x: x)(_read_16_bit(file, "tiff_pipe"))
    except Exception:  # a layout or compression that FFmpeg doesn't know
        return None
    known = np.asarray(image)
    return values if values.shape == known.shape and np.array_equal(values >> 8, known) else None


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """round(v / 257): maps 0..65535 to 0..255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def composite(pixels: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Blend uint8 pixels (H, W, 3) over a plain background, rounded to nearest. uint16 suffices: 255 * 255 + 127 < 2**16."""
    a = alpha[..., None].astype(np.uint16)
    under = np.asarray(background, np.uint16)
    return ((pixels * a + under * (255 - a) + 127) // 255).astype(np.uint8)


def upright(image: PillowImage.Image, pixels: np.ndarray) -> np.ndarray:
    """Rotate and mirror pixels (H, W, 3) by the image's EXIF orientation (Pillow itself applies it only to TIFF)."""
    return _UPRIGHT.get(orientation_of(image), lambda x: x)(pixels)


def orientation_of(image: PillowImage.Image) -> int:
    """The EXIF orientation, 1 to 8; from 5 on, height and width are exchanged."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # good pixels are usable even if the EXIF block is broken
        return 1
