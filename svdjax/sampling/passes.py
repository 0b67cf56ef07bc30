"""The UNet calls of an evaluation: all clips in one call, or parts of them in turn to save memory.

Each call is a program of its own. Within one program, a loop over the parts would keep copies of all convolution kernels in
cuDNN's layout, a gigabyte and a half for SVD-XT, because XLA moves their transposition out of the loop.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.devices.xla_options import UNET_OPTIONS
from svdjax.models.backward import Backward
from svdjax.models.svd import backward_unet
from svdjax.models.temporal_attention import rotate_maps
from svdjax.models.transformer import Maps
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.draws import Draws
from svdjax.sampling.prediction import Clips, Conditioning, Guide, clips_of, fuse, predict_clips

# Ways to divide an evaluation, two directions with and without conditioning, into UNet calls. The results are equal to
# rounding. In order of cost.
PASSES = {
    "together": "all clips in one UNet call",
    "guidance": "two UNet calls in turn, without and with conditioning",
    "clips": "one UNet call for each clip; the forward clip's temporal maps are kept for the backward clip",
}


def passes_of(directions: int, guided: bool) -> list[str]:
    """The keys of `PASSES` that differ for a run."""
    return ["together", *(["guidance"] if guided else []), *(["clips"] if directions == 2 else [])]


def evaluate(
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    at: dict[str, Array],
    conditioning: Conditioning,
    guide: Guide,
    draws: Draws,
    *,
    renoises: bool,
    passes: str,
) -> Array:
    """One evaluation with several UNet calls; see `sampler.scan`. Not for "together", which is one program.

    Args:
        at: the evaluation's entries of `sampler.evaluations_of`, (1,) each.
        unet, backward, latents, conditioning, guide, draws, renoises: see `sampler.scan`.
        passes: a key of `PASSES`.

    Returns:
        The new latents.
    """
    latents, clips = prepare(latents, at, conditioning, draws, renoises=renoises, guided=guide.scale is not None)
    directions, conditions = clips.sample.shape[:2]
    parts = []
    for g in range(conditions):
        part = slice(g, g + 1)
        if passes == "clips" and backward is not None:
            forward, maps = forward_clip(unet, backward, clips.some(slice(0, 1), part))
            reverse = backward_clip(unet, backward, clips.some(slice(1, 2), part), maps)
            del maps
            parts.append((forward, reverse))
        else:
            parts.append((half(unet, backward, clips.some(slice(directions), part)),))
    return finish(parts, latents, at, guide)


@jax.jit(static_argnames=("renoises", "guided"))
def prepare(
    latents: Array, at: dict[str, Array], conditioning: Conditioning, draws: Draws, renoises: bool, guided: bool
) -> tuple[Array, Clips]:
    """Latents with noise added if the step is a repetition, and the inputs of the UNet."""
    latents = add_noise(latents, {name: x[0] for name, x in at.items()}, draws) if renoises else latents
    return latents, clips_of(latents, at["sigma"][0], conditioning, guided)


def add_noise(latents: Array, at: dict[str, Array], draws: Draws) -> Array:
    """Latents with the noise of a repeated step, of standard deviation 0 if it isn't one."""
    return latents + at["renoise"] * draws.recurrence_noise(at["noise"]).astype(latents.dtype)


@jax.jit(compiler_options=UNET_OPTIONS)
def half(unet: UNet, backward: Backward | None, clips: Clips) -> Array:
    """Predictions with or without conditioning of all directions, (d, 1, b, f, h, w, c)."""
    return predict_clips(unet, backward, clips)


@jax.jit(compiler_options=UNET_OPTIONS)
def forward_clip(unet: UNet, backward: Backward, clips: Clips) -> tuple[Array, Maps]:
    """Prediction of the forward clip, (1, 1, b, f, h, w, c), and the maps that the backward clip uses.

    The maps are in the dtype that they are used in.
    """
    v, maps = predict_clips(unet, None, clips, return_attn_maps=True)
    return v, {path: of_layer.astype(unet.dtype) for path, of_layer in maps.items() if backward.takes_maps(path)}


@jax.jit(compiler_options=UNET_OPTIONS)
def backward_clip(unet: UNet, backward: Backward, clips: Clips, maps: Maps) -> Array:
    """Prediction of the backward clip, (1, 1, b, f, h, w, c), with the maps of the forward clip."""
    rotated = {path: rotate_maps(of_layer) for path, of_layer in maps.items()}
    return predict_clips(backward_unet(unet, backward.params), None, clips, attn_maps=rotated)


@jax.jit
def finish(parts: list[tuple[Array, ...]], latents: Array, at: dict[str, Array], guide: Guide) -> Array:
    """An Euler step from the predictions: for each condition, those of the directions."""
    v = jnp.concatenate([jnp.concatenate(directions, 0) for directions in parts], 1).astype(latents.dtype)
    return step(latents, fuse(v, guide), {name: x[0] for name, x in at.items()})


def step(latents: Array, v: Array, at: dict[str, Any]) -> Array:
    """An Euler step from latents and their v-prediction."""
    return edm.euler_step(latents, edm.denoise(latents, v, at["sigma"]), at["sigma"], at["sigma_next"])
