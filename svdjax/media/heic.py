"""Reading of HEIC images with pillow-heif, an optional package."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from svdjax.errors import InputError

if TYPE_CHECKING:
    from PIL import Image as PillowImage


def read_heic(name: str, file: BinaryIO, max_pixels: int) -> tuple[PillowImage.Image, np.ndarray | None, int]:
    """Load the main image of a HEIC file, upright: the library applies the file's own rotation and mirroring.

    Args:
        name: the file, for messages.
        file: opened for reading.
        max_pixels: larger images are refused before their pixels are decoded.

    Returns:
        The image with its profile, 8 bits per channel; its pixels as uint16 (H, W, 1 to 4) if the file has more than 8 bits,
        scaled to 0..65535; and the number of images in the file.

    Raises:
        InputError: pillow-heif is missing, or the image is too large.
        Exception: of nearly any kind, if the file is damaged.
    """
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f'{name}: is a HEIC image, expected the package pillow-heif to read it: pip install -e ".[heic]", or save it as '
            "PNG or JPEG"
        ) from None
    heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    main = heif[heif.primary_index]
    width, height = main.size
    if width * height > max_pixels:
        raise InputError(f"{name}: {width}x{height} pixels, expected at most {max_pixels // 10**6} million")
    depth = main.info.get("bit_depth", 8)
    if ";16" not in main.mode or "a" in main.mode:  # with premultiplied opacity, 8 bits are enough
        file.seek(0)
        heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
        return heif[heif.primary_index].to_pillow(), None, len(heif)
    values = np.asarray(main).reshape(height, width, -1)
    values = (values >> (16 - depth)) * (65535 / (2**depth - 1))  # the library fills the low bits with zeros
    image = pillow_heif.from_bytes("L", (1, 1), b"\0")[0].to_pillow()  # stands for the profile and the rest
    image.info.update(main.info)
    return image, np.rint(values).astype(np.uint16), len(heif)
