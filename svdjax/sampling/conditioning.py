"""Conditioning of the UNet: CLIP embeddings and VAE latents of the keyframes, and time ids.

Source: `_encode_image`, `_encode_vae_image`, `_get_add_time_ids` and `_resize_with_antialiasing` of diffusers' Stable Video
Diffusion pipeline. The resize is a Gaussian blur against aliasing, then bicubic interpolation. Both are linear and separable,
so each axis is resized by one matrix, built in float64.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from svdjax.config import CLIPConfig
from svdjax.devices.division import WHOLE
from svdjax.memory.precision import stats_dtype
from svdjax.models.clip import CLIPVision
from svdjax.models.vae import VAE
from svdjax.parallel import divided

# The 256 levels of a pixel in [-1, 1]. A table gives the same float32 values on every device.
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)

CUBIC_A = -0.75  # PyTorch's bicubic kernel


def to_signed_unit(images: Array) -> Array:
    """Convert uint8 images of any shape to float32 in [-1, 1]; return floating point images unchanged."""
    return jnp.asarray(LEVELS)[images] if images.dtype == jnp.uint8 else images


def _blur_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and weights of the Gaussian blur before an axis goes from `size` to `new_size`.

    Its standard deviation is (size / new_size - 1) / 2, at least 0.001 (no blur). The kernel covers two standard deviations on
    each side.
    """
    sigma = max((size / new_size - 1) / 2, 0.001)
    width = int(max(4 * sigma, 3))
    reach = width // 2  # an even width grows by one, so that the kernel has a center
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, weights / weights.sum()


def _cubic_taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights of each output, (new_size, 4) each; corners map to corners (`align_corners=True`)."""
    step = (size - 1) / (new_size - 1) if new_size > 1 else 0.0
    position = np.arange(new_size) * step
    start = np.floor(position)
    taps = start[:, None] + np.arange(-1, 3)
    x = np.abs(position[:, None] - taps)
    a = CUBIC_A
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1  # |x| <= 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a  # 1 < |x| <= 2
    return np.clip(taps, 0, size - 1).astype(int), np.where(x <= 1, near, far)


@functools.lru_cache(maxsize=16)
def resize_matrix(size: int, new_size: int) -> np.ndarray:
    """The matrix that resizes an axis: (new_size, size) float64.

    At the borders, the blur reflects the image without repeating the edge pixel; the interpolation repeats the edge pixel.
    """
    offsets, blur = _blur_taps(size, new_size)
    taps, cubic = _cubic_taps(size, new_size)
    source = np.abs(taps[:, :, None] + offsets)  # (new_size, 4, taps of the blur)
    source = (size - 1) - np.abs((size - 1) - source)
    rows = np.broadcast_to(np.arange(new_size)[:, None, None], source.shape)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (rows, source), cubic[:, :, None] * blur)
    matrix.flags.writeable = False  # all callers share the cached array
    return matrix


def resize_with_antialiasing(x: Array, size: tuple[int, int]) -> Array:
    """Resize (b, h, w, c) to (b, *size, c), in at least float32; `size` is (height, width)."""
    dtype = stats_dtype(x.dtype)
    by_row, by_column = (jnp.asarray(resize_matrix(n, new), dtype) for n, new in zip(x.shape[1:3], size, strict=True))
    # Full precision: by default a GPU multiplies float32 in TF32, with ten bits of mantissa.
    return jnp.einsum("yh,bhwc,xw->byxc", by_row, x.astype(dtype), by_column, precision=lax.Precision.HIGHEST)


def clip_pixels(images: Array, config: CLIPConfig) -> Array:
    """Input of CLIP, resized and normalised: (b, H, W, 3) in [-1, 1] -> (b, image_size, image_size, 3).

    The resize ignores the aspect ratio, as in SVD's training, and comes before the change to the range [0, 1].
    """
    x = resize_with_antialiasing(images, (config.image_size, config.image_size))
    mean, std = (jnp.asarray(values, x.dtype) for values in (config.image_mean, config.image_std))
    return ((x + 1) / 2 - mean) / std


def embed_images(image_encoder: CLIPVision, images: Array) -> Array:
    """CLIP embeddings of clean images: (b, H, W, 3) in [-1, 1] -> (b, 1, c)."""
    return image_encoder(clip_pixels(images, image_encoder.config))[:, None]


def encode_keyframes(
    image_encoder: CLIPVision, vae: VAE, keyframes: Array, augmentation: Array, noise_aug_strength: Array | float
) -> tuple[Array, Array]:
    """Encode keyframes twice: clean by CLIP, with added noise by the VAE.

    Args:
        keyframes: (..., H, W, 3) uint8, or floating point in [-1, 1], at the size of the video. Any leading axes, such as
            direction and pair.
        augmentation: unit-variance noise that broadcasts to the keyframes: (b, H, W, 3) for (d, b, H, W, 3) gives both
            keyframes of a pair the same noise.
        noise_aug_strength: standard deviation of the added noise, in units of the pixel range [-1, 1].

    Returns:
        image_embeds (..., 1, c), and image_latents (..., h, w, c): mode of the VAE's distribution, without the scaling factor.
    """
    lead = keyframes.shape[:-3]
    images = to_signed_unit(keyframes)
    noised = images + noise_aug_strength * augmentation
    image_embeds = embed_images(image_encoder, images.reshape(-1, *images.shape[-3:]))
    image_latents, _ = vae.encode(noised.reshape(-1, *noised.shape[-3:]))
    return image_embeds.reshape(*lead, 1, -1), image_latents.reshape(*lead, *image_latents.shape[1:])


encode = jax.jit(encode_keyframes)


@functools.partial(jax.jit, static_argnames=("mesh",))
def encode_on(
    image_encoder: CLIPVision,
    vae: VAE,
    keyframes: Array,
    augmentation: Array,
    noise_aug_strength: Array | float,
    mesh: Mesh,
) -> tuple[Array, Array]:
    """`encode_keyframes` of keyframes (d, b, H, W, 3) on the devices of a mesh, which divide the pairs and not the pixels."""
    clips = divided.batch_spec(mesh, keyframes.shape[1])
    pairs = P(None, *clips)
    args = image_encoder, vae, keyframes, augmentation, noise_aug_strength
    return divided.run_divided(encode_keyframes, mesh, WHOLE, args, (P(), P(), pairs, clips, P()), pairs)


def added_time_ids(fps: int, motion_bucket_id: float, noise_aug_strength: float) -> Array:
    """The three numbers that the UNet embeds besides sigma, (3,) float32.

    SVD was trained with fps - 1. As in diffusers' pipeline, callers pass fps, and the 1 is subtracted here.
    """
    return jnp.asarray([fps - 1, motion_bucket_id, noise_aug_strength], jnp.float32)
