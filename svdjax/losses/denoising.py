"""The loss of Stable Video Diffusion's image-to-video training, for the UNet with or without the image encoder.

Conditioning is that of the sampler: the latents of the noised first frame are concatenated to the noisy latents, and its CLIP
embedding goes to cross-attention. For some clips both are dropped, as needed for classifier-free guidance.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.memory.precision import stats_dtype
from svdjax.memory.rematerialise import RunBlock, run_rematerialised
from svdjax.models.clip import CLIPVision
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.conditioning import embed_images, to_signed_unit


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Noised:
    """Input of the loss for a batch of b clips, float32.

    Attributes:
        latents: clean latents, multiplied by the scaling factor, (b, f, h, w, c).
        noise: unit-variance noise, (b, f, h, w, c).
        sigma: noise levels, (b,).
        first: the clean first frame, (b, H, W, 3), uint8 or in [-1, 1]; or its embedding (b, 1, c) if the image encoder is not
            trained.
        image_latents: VAE latents of the noised first frame, without the scaling factor, (b, h, w, c).
        conditional: 1 for a clip with conditioning on its first frame, 0 for a clip without, (b,).
        added_time_ids: fps - 1, motion bucket id, noise augmentation strength, (b, 3).
    """

    latents: Array
    noise: Array
    sigma: Array
    first: Array
    image_latents: Array
    conditional: Array
    added_time_ids: Array


def denoising_losses(
    unet: UNet, image_encoder: CLIPVision | None, batch: Noised, *, run_block: RunBlock = run_rematerialised
) -> Array:
    """The loss of each clip, (b,): the mean squared error of v, equal to EDM's weighted error of the denoised latents.

    Args:
        unet: the trained UNet.
        image_encoder: the trained image encoder, or None if the batch has embeddings.
        batch: the clips.
        run_block: how blocks run (`svdjax.memory.rematerialise`).
    """
    dtype = stats_dtype(unet.dtype)
    sigma, conditional = (x.astype(dtype).reshape(-1, 1, 1, 1, 1) for x in (batch.sigma, batch.conditional))
    latents, noise = batch.latents.astype(dtype), batch.noise.astype(dtype)
    noisy = (latents + sigma * noise) * edm.c_in(sigma)
    embeds = batch.first if image_encoder is None else embed_images(image_encoder, to_signed_unit(batch.first))
    embeds = embeds.reshape(len(latents), 1, -1) * batch.conditional[:, None, None]
    image_latents = jnp.broadcast_to(batch.image_latents.astype(dtype)[:, None] * conditional, noisy.shape)
    sample = jnp.concatenate([noisy, image_latents], -1)
    v = unet(sample, edm.c_noise(batch.sigma.astype(dtype)), embeds, batch.added_time_ids, run_block=run_block)
    target = (noise - sigma * latents) * edm.c_in(sigma)
    return jnp.square(v.astype(dtype) - target).mean((1, 2, 3, 4))
