"""Loss for training the VAE from scratch on clips: image encoder and temporal decoder together, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.models.vae import VAE
from svdjax.sampling.conditioning import to_signed_unit

STILL = 0.05  # plus a pixel's motion, 0 to 1: its relative probability as the center of a crop


@dataclass(frozen=True)
class Autoencoding:
    """Weights of the terms of the loss.

    Attributes:
        moving: additional weight of pixels that differ from their median over time. Moving objects are small, but they matter
            most to viewers.
        edges: weight of the error of differences between neighbouring pixels, for sharp edges.
        divergence: weight of the KL divergence from a standard normal distribution, in nats per value of the latents; small,
            only to bound the latents.
        equivariance: fraction of the clips that are decoded from latents shifted by less than one latent; the target is the
            clip shifted by the same distance.
    """

    moving: float = 4.0
    edges: float = 1.0
    divergence: float = 1e-3
    equivariance: float = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reconstruction:
    """Results per clip.

    Attributes:
        loss: training loss, (b,).
        psnr: PSNR of the frames, clipped but not rounded to uint8, in dB, (b,).
    """

    loss: Array
    psnr: Array


def reconstruct(
    vae: VAE,
    clips: Array,
    posterior: Array,
    weights: Autoencoding,
    *,
    offsets: Array | None = None,
    freeze_encoder: bool = False,
) -> Reconstruction:
    """Encode each frame, decode the clip from sampled latents, and compare.

    Args:
        vae: the trained VAE.
        clips: (b, f, H, W, 3), uint8 or in [-1, 1].
        posterior: unit-variance noise that samples the latents, (b, f, h, w, c); with zeros, latents are their mean.
        weights: weights of the terms of the loss.
        offsets: (b, 2) integer pixels down and right, less than the side of a latent: the top left corner of the target in
            the clip. All frames' latents are interpolated at the same offset, so `posterior` and the decoded clip have one
            latent less in height and width.
        freeze_encoder: train only the decoder, for example after a UNet was trained on the latents.
    """
    clips = to_signed_unit(clips)
    moments = vae.encode(clips.reshape(-1, *clips.shape[2:]))
    mean, logvar = (x.reshape(*clips.shape[:2], *x.shape[1:]) for x in moments)
    if freeze_encoder:
        mean, logvar = jax.lax.stop_gradient((mean, logvar))
    if offsets is not None:
        factor = clips.shape[2] // mean.shape[2]
        mean, logvar = (jax.vmap(shift)(x, offsets / factor) for x in (mean, logvar))
        size = clips.shape[2] - factor, clips.shape[3] - factor
        clips = jax.vmap(lambda clip, offset: crop_at(clip, offset, size))(clips, offsets)
    frames = vae.decode(mean + jnp.exp(0.5 * logvar) * posterior)

    def compare(clip: Array, frames: Array, mean: Array, logvar: Array) -> Reconstruction:
        weight = 1 + weights.moving * motion(clip)
        error = jnp.abs(frames - clip)
        edges = sum((jnp.abs(jnp.diff(frames - clip, axis=axis)) * (edge_weight(weight, axis))).mean() for axis in (-3, -2))
        divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        loss = ((error * weight).mean() + weights.edges * edges) / weight.mean() + weights.divergence * divergence
        squared = jnp.square(frames.clip(-1, 1) - clip).mean() / 4
        return Reconstruction(loss, -10 * jnp.log10(jnp.maximum(squared, 1e-10)))

    return jax.vmap(compare)(clips, frames, mean, logvar)


def shift(latents: Array, by: Array) -> Array:
    """Interpolate linearly at positions `by` (2,) down and right, in [0, 1) latents: (f, h, w, c) -> (f, h-1, w-1, c).

    Training with this makes the decoder equivariant: shifted latents decode to the shifted clip. Kouzelis et al. 2025,
    "EQ-VAE", do the same with rotations and scalings.
    """
    for axis, share in ((1, by[0]), (2, by[1])):
        size = latents.shape[axis]
        near, far = (jax.lax.slice_in_dim(latents, i, size - 1 + i, axis=axis) for i in (0, 1))
        latents = near + share * (far - near)
    return latents


def crop_at(clip: Array, corner: Array | Sequence[Array], size: tuple[int, int]) -> Array:
    """Crop (f, H, W, 3) to (f, height, width, 3) with the top left corner (y, x)."""
    return jax.lax.dynamic_slice(clip, (0, corner[0], corner[1], 0), (clip.shape[0], *size, clip.shape[3]))


def crop_around_motion(clip: Array, key: Array, side: int) -> Array:
    """Crop the same square of all frames around a random pixel, mostly a moving one: (f, H, W, 3) -> (f, side, side, 3).

    Training on crops costs less, in proportion to their area, and they have more motion than whole frames.
    """
    height, width = clip.shape[1:3]
    chances = motion(to_signed_unit(clip)).max((0, 3)) + STILL
    at = jax.random.categorical(key, jnp.log(chances).ravel())
    corner = [(place - side // 2).clip(0, size - side) for place, size in zip(divmod(at, width), (height, width), strict=True)]
    return crop_at(clip, corner, (side, side))


def motion(clip: Array) -> Array:
    """Difference of each pixel from its median over time: (f, H, W, 3) -> (f, H, W, 1). A quarter of the range or more is 1."""
    return (jnp.abs(clip - jnp.median(clip, axis=0)).max(-1, keepdims=True) * 2).clip(0, 1)


def edge_weight(weight: Array, axis: int) -> Array:
    """The larger weight of each pair of neighbours along an axis."""
    first, second = (jax.lax.slice_in_dim(weight, i, weight.shape[axis] - 1 + i, axis=axis) for i in (0, 1))
    return jnp.maximum(first, second)
