"""Keyframes as Python callers give them: arrays, Pillow images or paths, as uint8 pixels."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.errors import InputError
from svdjax.media.colours import colour_space, to_srgb
from svdjax.media.image_pixels import composite, split_alpha, upright
from svdjax.media.images import WHITE, load_image

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    Keyframe = np.ndarray | PillowImage.Image | str | os.PathLike[str]


def pixels_of(name: str, keyframe: Any) -> np.ndarray:
    """The pixels of a keyframe, not resized.

    Args:
        name: of the keyframe in messages, such as `keyframe 2`.
        keyframe: an array (NumPy's, JAX's or PyTorch's) of uint8 (H, W, 3), or a batch of them (b, H, W, 3); a Pillow image;
            or the path of an image file. Pillow images are read like files (`svdjax.media.images.load_image`): upright, in
            sRGB, transparent parts over white.

    Returns:
        uint8 (H, W, 3) or (b, H, W, 3).

    Raises:
        InputError: something else, or an image that can't be read.
    """
    if isinstance(keyframe, (str, os.PathLike)):
        return load_image(keyframe)[0]
    if _is_pillow(keyframe):
        return _of_pillow(name, keyframe)
    if not hasattr(keyframe, "__array__"):
        raise InputError(f"{name} is a {type(keyframe).__name__}, expected a uint8 array (H, W, 3), a Pillow image or a path")
    try:
        pixels = np.asarray(keyframe)
    except (TypeError, RuntimeError) as e:  # such as PyTorch's tensors on a GPU
        raise InputError(f"{name} can't be converted to a NumPy array ({e})") from None
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        hint = "; scale its values to 0..255, round them and use .astype(np.uint8)" if pixels.dtype != np.uint8 else ""
        raise InputError(f"{name} is {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3){hint}")
    return pixels


def _is_pillow(value: object) -> bool:
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__)


def _of_pillow(name: str, image: PillowImage.Image) -> np.ndarray:
    try:
        loaded = image.copy()  # reads the pixels of a file that was only opened
        colour, alpha, _ = split_alpha(name, loaded, io.BytesIO())
        pixels, _ = to_srgb(colour, colour_space(name, image))
        pixels = pixels if alpha is None else composite(pixels, alpha, WHITE)
        return np.ascontiguousarray(upright(image, pixels))
    except InputError:
        raise
    except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
        raise InputError(f"{name}: the image is damaged or cut short ({e})") from None
