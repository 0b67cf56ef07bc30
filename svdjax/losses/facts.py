"""Loss: predict known facts about a frame from its embedding.

It trains the image encoder before the UNet, in place of CLIP's training on captions. The head that predicts the facts is
linear, so that the UNet can read them from the embedding. The head is dropped after training.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from svdjax.memory.precision import stats_dtype
from svdjax.models.clip import CLIPVision
from svdjax.sampling.conditioning import embed_images, to_signed_unit


def fact_losses(image_encoder: CLIPVision, kernel: Array, bias: Array, clips: Array, facts: Array) -> Array:
    """Mean squared error of the predicted facts, (b,); frames are encoded independently.

    Args:
        image_encoder: the trained image encoder.
        kernel: kernel of the linear head, (c, n).
        bias: bias of the head, (n,).
        clips: (b, f, H, W, 3), uint8 or in [-1, 1].
        facts: (b, f, n), each with about unit variance.
    """
    embeds = embed_images(image_encoder, to_signed_unit(clips.reshape(-1, *clips.shape[2:])))[:, 0]
    predicted = embeds.astype(stats_dtype(embeds.dtype)) @ kernel + bias
    return jnp.square(predicted.reshape(facts.shape) - facts).mean((1, 2))
