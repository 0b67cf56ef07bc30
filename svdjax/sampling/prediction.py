"""The v-prediction of one evaluation: inputs of the UNet, its call for all clips, guidance and fusion."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.parallel import divided
from svdjax.sampling import edm


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditioning:
    """Conditioning of d directions: d is 2, or 1 for only the forward direction (SVD's image-to-video).

    Attributes:
        image_embeds: CLIP embeddings of the keyframes, (d, b, 1, c).
        image_latents: VAE latents of the noised keyframes, not scaled, (d, b, h, w, c).
        added_time_ids: fps - 1, motion bucket id, noise augmentation strength, (b, 3).
        keyframe_latents: VAE latents of the clean keyframes, scaled as the sampler's latents, (d, b, h, w, c), for the methods
            that need them; None for the others.
    """

    image_embeds: Array
    image_latents: Array
    added_time_ids: Array
    keyframe_latents: Array | None = None

    def only(self, direction: Array) -> Conditioning:
        """The conditioning of one direction: d is 1, and the direction's own keyframe is the first of `keyframe_latents`."""
        embeds, latents = (
            lax.dynamic_index_in_dim(x, direction, keepdims=True) for x in (self.image_embeds, self.image_latents)
        )
        keyframes = self.keyframe_latents
        if keyframes is not None:
            keyframes = jnp.where(direction == 0, keyframes, keyframes[::-1])
        return Conditioning(embeds, latents, self.added_time_ids, keyframes)


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
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    sigma: Array,
    conditioning: Conditioning,
    guide: Guide,
    mesh: Mesh | None = None,
) -> Array:
    """The v-prediction of both directions after guidance and fusion, from one UNet call.

    Args:
        unet: the forward UNet.
        backward: the backward half; None if `conditioning` has one direction.
        latents: (b, f, h, w, c) at noise level `sigma`.
        sigma: scalar.
        conditioning: of d directions.
        guide: guidance scales and fusion weights.
        mesh: see `predict_clips`.

    Returns:
        (b, f, h, w, c) in forward time, at least float32.
    """
    clips = clips_of(latents, sigma, conditioning, guided=guide.scale is not None)
    return fuse(predict_clips(unet, backward, clips, mesh).astype(latents.dtype), guide)


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


def predict_clips(unet: UNet, backward: Backward | None, clips: Clips, mesh: Mesh | None = None, **options: Any) -> Any:
    """Predictions of clips from one UNet call, (d, g, b, f, h, w, c) in the UNet's dtype.

    Args:
        unet: the UNet.
        backward: the backward half if there are two directions, which then run in lock-step; None for one direction.
        clips: the clips.
        mesh: devices to divide the call over, see `svdjax.parallel.divided`; None for one device.
        options: `attn_maps`, `return_attn_maps`, `deep` or `return_deep`, see `UNet.__call__`; what these return follows the
            predictions. With a mesh only the last two; deep features are then (d, g, b, f, h, w, c).
    """
    if mesh is not None:
        return _predict_divided(unet, backward, clips, mesh, **options)
    lead = clips.sample.shape[:3]
    n = lead[0] * lead[1] * lead[2]
    sample, embeds = clips.sample, clips.image_embeds
    result: Any = unet(
        sample.reshape(n, *sample.shape[3:]),
        jnp.broadcast_to(clips.c_noise, n),
        embeds.reshape(n, *embeds.shape[3:]),
        jnp.broadcast_to(clips.added_time_ids, (*lead, 3)).reshape(n, 3),
        backward=backward,
        **options,
    )
    v, *others = result if isinstance(result, tuple) else (result,)
    v = v.reshape(*lead, *v.shape[1:])
    return (v, *others) if others else v


def _predict_divided(
    unet: UNet, backward: Backward | None, clips: Clips, mesh: Mesh, deep: Array | None = None, return_deep: bool = False
) -> Any:
    """`predict_clips` on the devices of a mesh; afterwards every device has the predictions of its clips."""
    _, conditions, batch, _, *size, _ = clips.sample.shape
    share = divided.shares(mesh, batch, conditions, size, unet.config.down_factor)
    # The inputs are small: every device has all of its clips' and takes its share. Left to XLA, they would be exchanged too.
    whole, parts, specs = share.clips("d.b"), share.clips("dgb", image=True), divided.stored_specs(unet, mesh)

    def run(unet: UNet, backward: Backward | None, clips: Clips, deep: Array | None) -> Any:
        unet, run_block = divided.with_stored(unet, specs)
        sample, embeds = share.own(clips.sample, "dgb", image=True), share.own(clips.image_embeds, "dgb")
        clips = dataclasses.replace(clips, sample=sample, image_embeds=embeds)
        lead = sample.shape[:3]
        deep = None if deep is None else deep.reshape(-1, *deep.shape[3:])
        options = {"run_block": run_block, "deep": deep, "return_deep": return_deep}
        result = predict_clips(unet, backward, clips, **options)
        v, *kept = result if return_deep else (result,)
        v = share.gathered(v, "dgb", image=True)
        return (v, kept[0].reshape(*lead, *kept[0].shape[1:])) if return_deep else v

    of_clips = Clips(whole, P(), whole, share.clips())  # pyright: ignore[reportArgumentType]: specifications
    args, in_specs = (unet, backward, clips, deep), (specs, P(), of_clips, parts)
    return divided.run_divided(run, mesh, share.pixels, args, in_specs, (whole, parts) if return_deep else whole)


def deep_constrained(deep: Array, unet: UNet, mesh: Mesh) -> Array:
    """Deep features (d, g, b, f, h, w, c) on the devices that compute them, inside a jitted function."""
    _, conditions, batch, _, *size, _ = deep.shape
    share = divided.shares(mesh, batch, conditions, size, unet.config.down_factor)
    return divided.constrained(deep, mesh, share.clips("dgb", image=True))


def fuse(v: Array, guide: Guide) -> Array:
    """Apply guidance, then combine the directions: (d, g, b, f, h, w, c) -> (b, f, h, w, c) in forward time.

    Without a guidance scale, or without unconditional predictions, only the conditional ones are used.
    """
    v = guided(v, guide)
    if len(v) == 1:
        return v[0]
    weight = _per_frame(guide.weight, v)
    return weight * v[0] + (1 - weight) * reverse_time(v[1])


def guided(v: Array, guide: Guide) -> Array:
    """The predictions of each direction after guidance: (d, g, b, f, h, w, c) -> (d, b, f, h, w, c)."""
    if guide.scale is None or v.shape[1] == 1:
        return v[:, -1]
    return v[:, 0] + _per_frame(guide.scale, v) * (v[:, 1] - v[:, 0])


def disagreement(latents: Array, v: Array, sigma: Array, guide: Guide) -> Array:
    """How far the clean latents of the two directions are apart, relative to the norm of the fused ones: (b,).

    With fusion weights w and 1 - w, a frame counts 2 sqrt(w (1 - w)): fully with average fusion, and not at the ends of a
    clip with linear fusion, where one direction alone is used.

    Args:
        latents: (b, f, h, w, c) at noise level `sigma`.
        v: predictions of all clips, (2, g, b, f, h, w, c).
        sigma: scalar.
        guide: guidance scales and fusion weights.
    """
    forward, backward = guided(v, guide)
    # as far as both count: 1 where the weights are equal, 0 where one direction is used alone
    spread = 2 * jnp.sqrt(jnp.maximum(guide.weight * (1 - guide.weight), 0))  # own weights may lie outside [0, 1]
    apart = edm.c_out(sigma) * _per_frame(spread, v) * (forward - reverse_time(backward))
    return _norm(apart) / _norm(edm.denoise(latents, fuse(v, guide), sigma))


def _norm(x: Array) -> Array:
    """The norm of each clip: (b, f, h, w, c) -> (b,)."""
    return jnp.sqrt(jnp.square(x).sum((1, 2, 3, 4)))


def _per_frame(factors: Array, v: Array) -> Array:
    """Factors (f,) in the dtype of v and in a shape that multiplies (..., f, h, w, c)."""
    return factors.astype(v.dtype)[:, None, None, None]
