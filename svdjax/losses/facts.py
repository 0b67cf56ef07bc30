"""What an image encoder learns before the UNet: to tell of a picture what is known of it, as a pure function.

It stands for CLIP's training on captions. The head that reads the answers off the embedding is linear, so that they lie
open in the embedding for the UNet; afterwards it is dropped.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from svdjax.memory.blocking import flatten_leading, stats_dtype
from svdjax.models.clip import CLIPVision
from svdjax.sampling.conditioning import embed_images, to_signed_unit


def fact_losses(image_encoder: CLIPVision, kernel: Array, bias: Array, clips: Array, facts: Array) -> Array:
    """The mean squared error of the facts of each clip's frames, (b,); every frame is a picture of its own.

    Args:
        image_encoder: to be trained.
        kernel: (c, n), of the head.
        bias: (n,).
        clips: (b, f, H, W, 3), uint8 or in [-1, 1].
        facts: (b, f, n), each of about unit variance.
    """
    embeds = embed_images(image_encoder, to_signed_unit(flatten_leading(clips, 2)))[:, 0]
    told = embeds.astype(stats_dtype(embeds.dtype)) @ kernel + bias
    return jnp.square(told.reshape(facts.shape) - facts).mean((1, 2))
