"""The VAE's loss, to train it from scratch on clips: encoder and temporal decoder together, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.models.vae import VAE
from svdjax.sampling.conditioning import to_signed_unit

STILL = 0.05  # chance of a pixel that doesn't move to be a crop's middle, that of a moving one being 1


@dataclass(frozen=True)
class Autoencoding:
    """Weights of the loss's terms.

    Attributes:
        moving: how much more a pixel counts that is unlike its clip's median over time: what moves is small, and is what
            people look at.
        edges: of the error of differences between neighbouring pixels, which keeps edges sharp.
        divergence: of the latents' distribution from a normal one, in nats a latent: only enough to bound them.
        equivariance: share of the clips whose latents are moved by a part of a cell before they are decoded, and must show
            the clip moved as far.
    """

    moving: float = 4.0
    edges: float = 1.0
    divergence: float = 1e-3
    equivariance: float = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reconstruction:
    """Of each clip of a batch.

    Attributes:
        loss: what is trained on, (b,).
        psnr: of the frames in [0, 255], dB, (b,).
    """

    loss: Array
    psnr: Array


def reconstruct(
    vae: VAE,
    clips: Array,
    posterior: Array,
    how: Autoencoding,
    *,
    offsets: Array | None = None,
    freeze_encoder: bool = False,
) -> Reconstruction:
    """Encode each frame, decode the clip from a sample of its latents, and compare.

    Args:
        vae: to be trained.
        clips: (b, f, H, W, 3), uint8 or in [-1, 1].
        posterior: unit-variance noise of the latents, (b, f, h, w, c); zeros take their mean.
        how: the loss.
        offsets: (b, 2), whole pixels down and right, less than a latent's side: the latents are moved by them, all frames
            of a clip alike, and what is decoded, a latent less in height and width as `posterior` is, is compared with that
            part of the clip.
        freeze_encoder: the latents are given, to finish the decoder when a UNet has learned to make them.
    """

    clips = to_signed_unit(clips)
    moments = vae.encode(clips.reshape(-1, *clips.shape[2:]))
    mean, logvar = (x.reshape(*clips.shape[:2], *x.shape[1:]) for x in moments)
    if freeze_encoder:
        mean, logvar = jax.lax.stop_gradient((mean, logvar))
    if offsets is not None:
        factor = clips.shape[2] // mean.shape[2]
        mean, logvar = (jax.vmap(move)(x, offsets / factor) for x in (mean, logvar))
        size = tuple(side - factor for side in clips.shape[2:4])
        clips = jax.vmap(lambda clip, offset: part(clip, offset, size))(clips, offsets)
    frames = vae.decode(mean + jnp.exp(0.5 * logvar) * posterior)

    def compare(clip: Array, frames: Array, mean: Array, logvar: Array) -> Reconstruction:
        weight = 1 + how.moving * moving(clip)
        error = jnp.abs(frames - clip)
        edges = sum((jnp.abs(jnp.diff(frames - clip, axis=axis)) * (weight_at(weight, axis))).mean() for axis in (-3, -2))
        divergence = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).mean()
        loss = ((error * weight).mean() + how.edges * edges) / weight.mean() + how.divergence * divergence
        squared = jnp.square(frames.clip(-1, 1) - clip).mean() / 4
        return Reconstruction(loss, -10 * jnp.log10(jnp.maximum(squared, 1e-10)))

    return jax.vmap(compare)(clips, frames, mean, logvar)


def move(latents: Array, by: Array) -> Array:
    """What lies `by` (2,) in [0, 1) cells down and right of each cell: (f, h, w, c) -> (f, h-1, w-1, c). Linear in between.

    A clip that is moved has latents that are moved, if this is decoded as the clip is (Kouzelis et al. 2025, "EQ-VAE", which
    turns and scales them).
    """
    for axis, share in ((1, by[0]), (2, by[1])):
        size = latents.shape[axis]
        near, far = (jax.lax.slice_in_dim(latents, i, size - 1 + i, axis=axis) for i in (0, 1))
        latents = near + share * (far - near)
    return latents


def part(clip: Array, corner: Array | Sequence[Array], size: tuple[int, int]) -> Array:
    """(f, H, W, 3) -> (f, height, width, 3), from the corner (y, x) on."""
    return jax.lax.dynamic_slice(clip, (0, corner[0], corner[1], 0), (clip.shape[0], *size, clip.shape[3]))


def crop(clip: Array, key: Array, side: int) -> Array:
    """A square of each frame, the same of all, about a pixel drawn mostly among those that move: (f, H, W, 3) ->
    (f, side, side, 3). Cheaper than the whole by its share of the area, and more of it is what people look at.
    """
    height, width = clip.shape[1:3]
    chances = moving(to_signed_unit(clip)).max((0, 3)) + STILL
    at = jax.random.categorical(key, jnp.log(chances).ravel())
    corner = [(place - side // 2).clip(0, size - side) for place, size in zip(divmod(at, width), (height, width), strict=True)]
    return part(clip, corner, (side, side))


def moving(clip: Array) -> Array:
    """How unlike its median over time each pixel is, 1 from a quarter of the range on: (f, H, W, 3) -> (f, H, W, 1)."""
    return (jnp.abs(clip - jnp.median(clip, axis=0)).max(-1, keepdims=True) * 2).clip(0, 1)


def weight_at(weight: Array, axis: int) -> Array:
    """The greater weight of two neighbours along an axis."""
    first, second = (jax.lax.slice_in_dim(weight, i, weight.shape[axis] - 1 + i, axis=axis) for i in (0, 1))
    return jnp.maximum(first, second)
