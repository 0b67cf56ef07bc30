"""The UNet calls of an update: all clips in one call, or parts of them in turn to save memory.

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
from svdjax.sampling.draws import Draws
from svdjax.sampling.prediction import Clips, Conditioning, Guide, clips_of, disagreement, predict_clips, reverse_time
from svdjax.sampling.runs import Kind
from svdjax.sampling.updates import FORWARD, Predicted

# Ways to divide an evaluation, two directions with and without conditioning, into UNet calls. The results are equal to
# rounding. In order of cost.
PASSES = {
    "together": "all clips in one UNet call",
    "guidance": "two UNet calls in turn, without and with conditioning",
    "clips": "one UNet call for each clip; the forward clip's temporal maps are kept for the backward clip",
}


def passes_of(directions: int, guided: bool) -> list[str]:
    """The keys of `PASSES` that differ for a run.

    Args:
        directions: most directions of an update.
        guided: whether an update has predictions without conditioning.
    """
    return ["together", *(["guidance"] if guided else []), *(["clips"] if directions == 2 else [])]


def evaluate(
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    at: dict[str, Array],
    conditioning: Conditioning,
    guide: Guide,
    draws: Draws,
    deep: Any = None,
    *,
    kind: Kind,
    passes: str,
    clean: bool = False,
) -> tuple[Array, Any, Array | None, Array | None]:
    """One update with several UNet calls; see `sampler.scan`. Not for "together", which is one program.

    Args:
        at: the update's entries of `Run.rows`, (1,) each.
        unet, backward, latents, conditioning, guide, draws, kind: see `sampler.scan`.
        deep: the kept deep features, in parts, if the kind reuses them.
        passes: a key of `PASSES`.
        clean: whether to return the denoised latents.

    Returns:
        The new latents, the deep features in parts if the kind stores them, `step`'s disagreement, and the denoised latents
        if requested.
    """
    latents, clips = prepare(latents, at, conditioning, draws, kind=kind)
    directions, conditions = clips.sample.shape[:2]
    store = kind.deep == "store"
    parts, kept = [], []
    for g in range(conditions):
        part = slice(g, g + 1)
        reused = deep[g] if deep is not None else (None, None)
        if passes == "clips" and directions == 2:
            assert backward is not None
            forward, maps, first = forward_clip(unet, backward, clips.some(slice(0, 1), part), reused[0], store=store)
            reverse, second = backward_clip(unet, backward, clips.some(slice(1, 2), part), maps, reused[1], store=store)
            del maps
            parts.append((forward, reverse))
            kept.append((first, second))
        else:
            v, first = half(unet, backward, clips.some(slice(directions), part), reused[0], store=store)
            parts.append((v,))
            kept.append((first, None))
    denoised = denoised_of(parts, latents, at, guide, kind=kind) if clean else None
    after, apart = finish(parts, latents, at, conditioning, guide, kind=kind)
    return after, kept if store else None, apart, denoised


@jax.jit(static_argnames=("kind",))
def prepare(latents: Array, at: dict[str, Array], conditioning: Conditioning, draws: Draws, kind: Kind) -> tuple[Array, Clips]:
    """Latents with noise added if the update starts at a higher level, and the inputs of the UNet."""
    row = first_row(at)
    latents = add_noise(latents, row, draws) if kind.renoises else latents
    return latents, inputs(latents, row, conditioning, kind)


def first_row(at: dict[str, Array]) -> dict[str, Array]:
    """The numbers of the first update of some rows."""
    return {name: x[0] for name, x in at.items()}


def add_noise(latents: Array, at: dict[str, Array], draws: Draws) -> Array:
    """Latents with the noise of an update, of standard deviation 0 if it adds none."""
    return latents + at["renoise"] * draws.recurrence_noise(at["noise"]).astype(latents.dtype)


def inputs(latents: Array, at: dict[str, Array], conditioning: Conditioning, kind: Kind) -> Clips:
    """Inputs of the UNet for an update."""
    if kind.single:
        latents, conditioning = own_time(latents, at), conditioning.only(at["direction"])
    return clips_of(latents, at["sigma"], conditioning, kind.unconditional)


def own_time(latents: Array, at: dict[str, Array]) -> Array:
    """Latents in the time of the direction `at["direction"]`, from forward time, or the reverse."""
    return jnp.where(at["direction"] == FORWARD, latents, reverse_time(latents))


@jax.jit(static_argnames=("store",), compiler_options=UNET_OPTIONS)
def half(
    unet: UNet, backward: Backward | None, clips: Clips, deep: Array | None = None, store: bool = False
) -> tuple[Array, Array | None]:
    """Predictions with or without conditioning, (d, 1, b, f, h, w, c), and the deep features if they are to be stored."""
    return predict(unet, backward, clips, deep, store)


@jax.jit(static_argnames=("store",), compiler_options=UNET_OPTIONS)
def forward_clip(
    unet: UNet, backward: Backward, clips: Clips, deep: Array | None = None, store: bool = False
) -> tuple[Array, Maps, Array | None]:
    """Prediction of the forward clip, (1, 1, b, f, h, w, c), the maps that the backward clip uses, and deep features to store.

    The maps are in the dtype that they are used in.
    """
    v, maps, *kept = predict_clips(unet, None, clips, return_attn_maps=True, deep=deep, return_deep=store)
    used = {path: of_layer.astype(unet.dtype) for path, of_layer in maps.items() if backward.takes_maps(path)}
    return v, used, kept[0] if store else None


@jax.jit(static_argnames=("store",), compiler_options=UNET_OPTIONS)
def backward_clip(
    unet: UNet, backward: Backward, clips: Clips, maps: Maps, deep: Array | None = None, store: bool = False
) -> tuple[Array, Array | None]:
    """Prediction of the backward clip, (1, 1, b, f, h, w, c), with the maps of the forward clip; deep features to store."""
    rotated = {path: rotate_maps(of_layer) for path, of_layer in maps.items()}
    return predict(backward_unet(unet, backward.params), None, clips, deep, store, attn_maps=rotated)


def predict(
    unet: UNet, backward: Backward | None, clips: Clips, deep: Array | None, store: bool, **options: Any
) -> tuple[Array, Array | None]:
    """Predictions of clips from one UNet call, and the deep features if they are to be stored; see `predict_clips`."""
    if not store:
        return predict_clips(unet, backward, clips, deep=deep, **options), None
    return predict_clips(unet, backward, clips, return_deep=True, **options)


@jax.jit(static_argnames=("kind",))
def finish(
    parts: list[tuple[Array, ...]], latents: Array, at: dict[str, Array], conditioning: Conditioning, guide: Guide, kind: Kind
) -> tuple[Array, Array | None]:
    """See `step`; the predictions are in parts: for each condition, those of the directions."""
    return step(latents, _joined(parts), first_row(at), conditioning, guide, kind)


@jax.jit(static_argnames=("kind",))
def denoised_of(parts: list[tuple[Array, ...]], latents: Array, at: dict[str, Array], guide: Guide, kind: Kind) -> Array:
    """See `denoise`; the predictions are in parts, as in `finish`."""
    return denoise(latents, _joined(parts), first_row(at), guide, kind)


def _joined(parts: list[tuple[Array, ...]]) -> Array:
    return jnp.concatenate([jnp.concatenate(directions, 0) for directions in parts], 1)


def step(
    latents: Array, v: Array, at: dict[str, Array], conditioning: Conditioning, guide: Guide, kind: Kind
) -> tuple[Array, Array | None]:
    """The new latents of an update, from its latents and the predictions of all its clips.

    Also the `prediction.disagreement` of the directions if there are two, (b,); None for one direction.
    """
    v = v.astype(latents.dtype)
    keyframes = conditioning.keyframe_latents
    if kind.single:
        latents, keyframes = own_time(latents, at), conditioning.only(at["direction"]).keyframe_latents
    keyframes = None if keyframes is None else keyframes.astype(latents.dtype)
    after = kind.step(Predicted(latents=latents, v=v, numbers=at, guide=guide, keyframes=keyframes))
    apart = disagreement(latents, v, at["sigma"], guide) if len(v) == 2 else None
    return own_time(after, at) if kind.single else after, apart


def denoise(latents: Array, v: Array, at: dict[str, Array], guide: Guide, kind: Kind) -> Array:
    """The denoised latents of an update, (b, f, h, w, c) in forward time; for the arguments see `step`."""
    latents = own_time(latents, at) if kind.single else latents
    predicted = Predicted(latents=latents, v=v.astype(latents.dtype), numbers=at, guide=guide, keyframes=None)
    return own_time(predicted.denoised(), at) if kind.single else predicted.denoised()
