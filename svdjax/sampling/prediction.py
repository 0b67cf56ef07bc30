"""The v-prediction of one evaluation: inputs of the UNet, its call for all clips, guidance and fusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.sampling import edm


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditioning:
    """Conditioning of d directions: d is 2, or 1 for only the forward direction (SVD's image-to-video).

    Attributes:
        image_embeds: CLIP embeddings of the keyframes, (d, b, 1, c).
        image_latents: VAE latents of the noised keyframes, not scaled, (d, b, h, w, c).
        added_time_ids: fps - 1, motion bucket id, noise augmentation strength, (b, 3).
    """

    image_embeds: Array
    image_latents: Array
    added_time_ids: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guide:
    """Weights that combine the predictions.

    Attributes:
        scale: guidance scale of each frame in a direction's own time order, (f,); None: use only the conditional prediction.
        weight: weight of the forward direction for each frame, in forward time, (f,).
    """

    scale: Array | None
    weight: Array


def reverse_time(x: Array) -> Array:
    """Reverse the frames of (..., f, h, w, c)."""
    return jnp.flip(x, -4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clips:
    """Inputs of the UNet for the clips of an evaluation: d directions, with and without conditioning.

    Attributes:
        sample: scaled noisy latents and image latents, (d, g, b, f, h, w, c). g is (unconditional, conditional), or only
            conditional.
        c_noise: scalar.
        image_embeds: (d, g, b, 1, c).
        added_time_ids: (b, 3).
    """

    sample: Array
    c_noise: Array
    image_embeds: Array
    added_time_ids: Array

    def some(self, directions: slice, conditions: slice) -> Clips:
        """The clips of some directions, with or without conditioning."""
        part = (directions, conditions)
        return Clips(self.sample[part], self.c_noise, self.image_embeds[part], self.added_time_ids)


def predict_v(
    unet: UNet, backward: Backward | None, latents: Array, sigma: Array, conditioning: Conditioning, guide: Guide
) -> Array:
    """The v-prediction of both directions after guidance and fusion, from one UNet call.

    Args:
        unet: the forward UNet.
        backward: the backward half; None if `conditioning` has one direction.
        latents: (b, f, h, w, c) at noise level `sigma`.
        sigma: scalar.
        conditioning: of d directions.
        guide: guidance scales and fusion weights.

    Returns:
        (b, f, h, w, c) in forward time, at least float32.
    """
    clips = clips_of(latents, sigma, conditioning, guided=guide.scale is not None)
    return fuse(predict_clips(unet, backward, clips).astype(latents.dtype), guide)


def clips_of(latents: Array, sigma: Array, conditioning: Conditioning, guided: bool) -> Clips:
    """Inputs of the UNet; for the arguments see `predict_v`."""
    noisy = latents * edm.c_in(sigma)
    noisy = jnp.stack([noisy, reverse_time(noisy)][: len(conditioning.image_embeds)])
    image = jnp.broadcast_to(conditioning.image_latents[:, :, None], noisy.shape).astype(noisy.dtype)
    embeds = conditioning.image_embeds
    if guided:
        noisy = jnp.stack([noisy, noisy], 1)
        image = jnp.stack([jnp.zeros_like(image), image], 1)
        embeds = jnp.stack([jnp.zeros_like(embeds), embeds], 1)
    else:
        noisy, image, embeds = noisy[:, None], image[:, None], embeds[:, None]
    sample = jnp.concatenate([noisy, image], -1)
    return Clips(sample, edm.c_noise(sigma), embeds, conditioning.added_time_ids)


def predict_clips(unet: UNet, backward: Backward | None, clips: Clips, **maps: Any) -> Any:
    """Predictions of clips from one UNet call, (d, g, b, f, h, w, c) in the UNet's dtype.

    Args:
        unet: the UNet.
        backward: the backward half if there are two directions, which then run in lock-step; None for one direction.
        clips: the clips.
        maps: `attn_maps` or `return_attn_maps`, see `UNet.__call__`; with the latter the maps are returned too.
    """
    lead = clips.sample.shape[:3]
    n = lead[0] * lead[1] * lead[2]
    sample, embeds = clips.sample, clips.image_embeds
    result: Any = unet(
        sample.reshape(n, *sample.shape[3:]),
        jnp.broadcast_to(clips.c_noise, n),
        embeds.reshape(n, *embeds.shape[3:]),
        jnp.broadcast_to(clips.added_time_ids, (*lead, 3)).reshape(n, 3),
        backward=backward,
        **maps,
    )
    v, *its_maps = result if isinstance(result, tuple) else (result,)
    v = v.reshape(*lead, *v.shape[1:])
    return (v, *its_maps) if its_maps else v


def fuse(v: Array, guide: Guide) -> Array:
    """Apply guidance, then combine the directions: (d, g, b, f, h, w, c) -> (b, f, h, w, c) in forward time."""
    v = v[:, 0] if guide.scale is None else v[:, 0] + _per_frame(guide.scale, v) * (v[:, 1] - v[:, 0])
    if len(v) == 1:
        return v[0]
    weight = _per_frame(guide.weight, v)
    return weight * v[0] + (1 - weight) * reverse_time(v[1])


def _per_frame(factors: Array, v: Array) -> Array:
    """Factors (f,) in the dtype of v and in a shape that multiplies (..., f, h, w, c)."""
    return factors.astype(v.dtype)[:, None, None, None]
