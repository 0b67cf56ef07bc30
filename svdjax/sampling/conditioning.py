"""Conditioning of the UNet: CLIP embeddings and VAE latents of the keyframes, and time ids.

Source: `_encode_image`, `_encode_vae_image` and `_get_add_time_ids` of diffusers' Stable Video Diffusion pipeline.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import CLIPConfig
from svdjax.models.clip import CLIPVision
from svdjax.models.vae import VAE
from svdjax.sampling.resize import resize_with_antialiasing

# The 256 levels of a pixel in [-1, 1]. A table gives the same float32 values on every device.
LEVELS = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


def to_signed_unit(images: Array) -> Array:
    """Convert uint8 images of any shape to float32 in [-1, 1]; return floating point images unchanged."""
    return jnp.asarray(LEVELS)[images] if images.dtype == jnp.uint8 else images


def to_levels(images: Array) -> Array:
    """Convert floating point images in [-1, 1] to uint8, clipped and rounded as in diffusers' `VaeImageProcessor`."""
    return jnp.round(jnp.clip(images / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)


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


def added_time_ids(fps: int, motion_bucket_id: float, noise_aug_strength: float) -> Array:
    """The three numbers that the UNet embeds besides sigma, (3,) float32.

    SVD was trained with fps - 1. As in diffusers' pipeline, callers pass fps, and the 1 is subtracted here.
    """
    return jnp.asarray([fps - 1, motion_bucket_id, noise_aug_strength], jnp.float32)
