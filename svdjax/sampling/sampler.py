"""The sampler in both directions of time: Algorithm 2 of Generative Inbetweening, as a jitted scan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.checks import check_progress
from svdjax.sampling.draws import Draws
from svdjax.sampling.settings import Settings
from svdjax.scalars import whole_number

Progress = Callable[[int, int], object]  # called with the UNet evaluations done so far and in total


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
    directions, b = conditioning.image_embeds.shape[:2]
    noisy = latents * edm.c_in(sigma)
    noisy = jnp.stack([noisy, reverse_time(noisy)][:directions])
    image = jnp.broadcast_to(conditioning.image_latents[:, :, None], noisy.shape).astype(noisy.dtype)
    embeds = conditioning.image_embeds

    # (d, g, b, ...): g is (unconditional, conditional), or only conditional
    if guide.scale is None:
        noisy, image, embeds = noisy[:, None], image[:, None], embeds[:, None]
    else:
        noisy = jnp.stack([noisy, noisy], 1)
        image = jnp.stack([jnp.zeros_like(image), image], 1)
        embeds = jnp.stack([jnp.zeros_like(embeds), embeds], 1)
    sample = jnp.concatenate([noisy, image], -1)
    lead = sample.shape[:3]
    n = lead[0] * lead[1] * b

    v = unet(
        sample.reshape(n, *sample.shape[3:]),
        jnp.broadcast_to(edm.c_noise(sigma), n),
        embeds.reshape(n, *embeds.shape[3:]),
        jnp.broadcast_to(conditioning.added_time_ids, (*lead[:2], b, 3)).reshape(n, 3),
        backward=backward,
    )
    v = v.astype(latents.dtype).reshape(*lead, *v.shape[1:])
    v = v[:, 0] if guide.scale is None else v[:, 0] + _per_frame(guide.scale, v) * (v[:, 1] - v[:, 0])
    if directions == 1:
        return v[0]
    weight = _per_frame(guide.weight, v)
    return weight * v[0] + (1 - weight) * reverse_time(v[1])


def _per_frame(factors: Array, v: Array) -> Array:
    """Factors (f,) in the dtype of v and in a shape that multiplies (..., f, h, w, c)."""
    return factors.astype(v.dtype)[:, None, None, None]


@functools.partial(jax.jit, static_argnames=("renoises", "trajectory"), donate_argnames=("latents",))
def _scan(
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    evaluations: dict[str, Array],
    conditioning: Conditioning,
    guide: Guide,
    draws: Draws,
    renoises: bool,
    trajectory: bool,
) -> tuple[Array, Array | None]:
    """Run the evaluations in order: add noise if a step is repeated, predict, take an Euler step.

    Returns:
        The final latents, and the latents after every evaluation, None without `trajectory`.
    """

    def evaluate(latents: Array, at: dict[str, Array]) -> tuple[Array, Array | None]:
        if renoises:
            latents = latents + at["renoise"] * draws.recurrence_noise(at["noise"]).astype(latents.dtype)
        v = predict_v(unet, backward, latents, at["sigma"], conditioning, guide)
        denoised = edm.denoise(latents, v, at["sigma"])
        latents = edm.euler_step(latents, denoised, at["sigma"], at["sigma_next"])
        return latents, latents if trajectory else None

    return lax.scan(evaluate, latents, evaluations)


def _replicated_like(unet: UNet) -> jax.sharding.Sharding:
    """Placement with a full copy on every device of the UNet."""
    sharding = jax.tree.leaves(unet)[0].sharding
    mesh = getattr(sharding, "mesh", None)
    return sharding if mesh is None else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


@overload
def sample(
    unet: UNet,
    conditioning: Conditioning,
    settings: Settings,
    draws: Draws,
    *,
    scheduler: EDMConfig,
    backward: Backward | None = None,
    progress: Progress | None = None,
    segments: int = 1,
    trajectory: Literal[False] = False,
) -> Array: ...
@overload
def sample(
    unet: UNet,
    conditioning: Conditioning,
    settings: Settings,
    draws: Draws,
    *,
    scheduler: EDMConfig,
    backward: Backward | None = None,
    progress: Progress | None = None,
    segments: int = 1,
    trajectory: Literal[True],
) -> tuple[Array, Array]: ...
def sample(
    unet: UNet,
    conditioning: Conditioning,
    settings: Settings,
    draws: Draws,
    *,
    scheduler: EDMConfig,
    backward: Backward | None = None,
    progress: Progress | None = None,
    segments: int = 1,
    trajectory: bool = False,
) -> Array | tuple[Array, Array]:
    """Sample the latents of the clips between pairs of keyframes.

    Latents and sigmas are float32 (float64 for a float64 UNet); the UNet computes in its own dtype.

    Args:
        unet: the forward UNet.
        conditioning: of b pairs.
        settings: frames, steps, guidance, fusion, recurrence.
        draws: the initial and recurrence noise.
        scheduler: the range of noise levels.
        backward: the backward half; None if `conditioning` has one direction.
        progress: called after each segment with the UNet evaluations done so far and in total.
        segments: largest number of jitted scans that the run is divided into. More than one lets `progress` be called between
            them. It is not called from inside a scan: JAX never writes a program with Python callbacks to its persistent
            compilation cache, and a UNet takes minutes to compile.
        trajectory: also return the latents after every evaluation.

    Returns:
        (b, f, h, w, c), before the division by the VAE's scaling factor; with `trajectory` a pair of these latents and
        (n, b, f, h, w, c), the latents after each of the n evaluations.

    Raises:
        InputError: `progress` can't be called, or `segments` isn't a whole number of at least 1.
        FloatingPointError: the latents are not finite; the message gives the number of the evaluation.
    """
    check_progress(progress)
    if (parts := whole_number(segments)) is None or parts < 1:
        raise InputError(f"segments is {segments!r}, expected a whole number of at least 1")
    plan = settings.schedule(scheduler)
    dtype = stats_dtype(unet.dtype)
    evaluations = {
        "sigma": jnp.asarray(plan.sigma, dtype),
        "sigma_next": jnp.asarray(plan.sigma_next, dtype),
        "renoise": jnp.asarray(plan.renoise, dtype),
        "noise": jnp.asarray(np.cumsum(plan.renoise > 0) - 1, jnp.int32),
    }
    scale = settings.guidance_scale(len(conditioning.image_embeds))
    guide = Guide(None if (scale == 1).all() else jnp.asarray(scale, dtype), jnp.asarray(settings.forward_weight(), dtype))
    # placed like the output of the scan: with another placement, the second segment would compile again
    latents = jax.device_put(draws.initial.astype(dtype) * math.sqrt(scheduler.sigma_max**2 + 1), _replicated_like(unet))
    # equal segments, so that one compilation serves all
    length = min(n for n in range(1, len(plan) + 1) if len(plan) % n == 0 and n * parts >= len(plan))
    steps = []
    for start in range(0, len(plan), length):
        part = {name: values[start : start + length] for name, values in evaluations.items()}
        latents, after = _scan(
            unet, backward, latents, part, conditioning, guide, draws, renoises=plan.recurrences > 0, trajectory=trajectory
        )
        steps.append(after)
        if not jnp.isfinite(latents).all():
            raise FloatingPointError(f"latents are not finite after evaluation {start + length} of {len(plan)}")
        if progress is not None:
            progress(start + length, len(plan))
    return (latents, jnp.concatenate(steps)) if trajectory else latents
