"""The loss of Stable Video Diffusion itself: image to video, UNet and image encoder together, as a pure function.

Conditioning as the sampler gives it: the first frame, noised, beside the latents, its embedding in the cross-attention; both
are left out together for some clips, which is what classifier-free guidance needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.memory.blocking import stats_dtype
from svdjax.memory.rematerialise import RunBlock, run_rematerialised
from svdjax.models.clip import CLIPVision
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.conditioning import embed_images, to_signed_unit


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noised:
    """A batch as the loss takes it, float32.

    Attributes:
        latents: clean and scaled, (b, f, h, w, c).
        noise: (b, f, h, w, c), of unit variance.
        sigma: (b,).
        first: the first frame, clean, (b, H, W, 3), uint8 or in [-1, 1]; or its embedding (b, 1, c), where the image encoder
            is not trained.
        image_latents: of the first frame with noise, not scaled, (b, h, w, c).
        conditional: 1 for a clip that is told its first frame, 0 for one that is not, (b,).
        added_time_ids: (b, 3).
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
    """The loss of each clip, (b,): the squared error of v, which is the denoised latents' weighted as EDM weighs it.

    Args:
        unet: to be trained.
        image_encoder: to be trained too, or None where the batch has embeddings.
        batch: of clips.
        run_block: how blocks are run (`svdjax.memory.rematerialise`).
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
