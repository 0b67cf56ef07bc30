"""The sampler in both directions of time: Algorithm 2 of Generative Inbetweening, as a jitted scan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from svdjax.config import EDMConfig
from svdjax.devices.xla_options import UNET_OPTIONS
from svdjax.errors import InputError
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.sampling.checks import check_progress
from svdjax.sampling.draws import Draws
from svdjax.sampling.edm import Schedule
from svdjax.sampling.passes import PASSES, add_noise, evaluate, step
from svdjax.sampling.prediction import Conditioning, Guide, predict_v
from svdjax.sampling.settings import Settings
from svdjax.scalars import whole_number

Progress = Callable[[int, int], object]  # called with the UNet evaluations done so far and in total


@functools.partial(
    jax.jit,
    static_argnames=(
        "renoises",
        "trajectory",
    ),
    donate_argnames=("latents",),
    compiler_options=UNET_OPTIONS,
)
def scan(
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
        latents = add_noise(latents, at, draws) if renoises else latents
        latents = step(latents, predict_v(unet, backward, latents, at["sigma"], conditioning, guide), at)
        return latents, latents if trajectory else None

    return lax.scan(evaluate, latents, evaluations)


def evaluations_of(plan: Schedule, dtype: DTypeLike, start: int, length: int) -> dict[str, Array]:
    """What `scan` needs of some of a schedule's evaluations: (length,) each."""
    part = slice(start, start + length)
    return {
        "sigma": jnp.asarray(plan.sigma[part], dtype),
        "sigma_next": jnp.asarray(plan.sigma_next[part], dtype),
        "renoise": jnp.asarray(plan.renoise[part], dtype),
        "noise": jnp.asarray((np.cumsum(plan.renoise > 0) - 1)[part], jnp.int32),
    }


def guide_of(settings: Settings, directions: int, dtype: DTypeLike) -> Guide:
    """The weights of a run."""
    scale = settings.guidance_scale(directions)
    return Guide(None if (scale == 1).all() else jnp.asarray(scale, dtype), jnp.asarray(settings.forward_weight(), dtype))


def segment_length(evaluations: int, segments: int) -> int:
    """Evaluations of one call of `scan`: segments are equal, so that one compilation serves all."""
    return min(n for n in range(1, evaluations + 1) if evaluations % n == 0 and n * segments >= evaluations)


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
    passes: str | None = None,
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
    passes: str | None = None,
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
    passes: str | None = None,
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
        passes: a key of `svdjax.sampling.passes.PASSES`: each evaluation is run alone, with these UNet calls, which needs less
            memory; None: scans.
        trajectory: also return the latents after every evaluation.

    Returns:
        (b, f, h, w, c), before the division by the VAE's scaling factor; with `trajectory` a pair of these latents and
        (n, b, f, h, w, c), the latents after each of the n evaluations.

    Raises:
        InputError: `progress` can't be called, `segments` isn't a whole number of at least 1, or `passes` is unknown.
        FloatingPointError: the latents are not finite; the message gives the number of the evaluation.
    """
    check_progress(progress)
    if (parts := whole_number(segments)) is None or parts < 1:
        raise InputError(f"segments is {segments!r}, expected a whole number of at least 1")
    if passes is not None and passes not in PASSES:
        raise InputError(f"passes is {passes!r}, expected one of {', '.join(PASSES)}, or None")
    plan = settings.schedule(scheduler)
    dtype = stats_dtype(unet.dtype)
    # placed like the output of the scan: with another placement, the second segment would compile again
    place = functools.partial(jax.device_put, device=_replicated_like(unet))
    guide = place(guide_of(settings, len(conditioning.image_embeds), dtype))
    latents = place(draws.initial.astype(dtype) * math.sqrt(scheduler.sigma_max**2 + 1))
    length = segment_length(len(plan), parts)
    steps = []
    for start in range(0, len(plan), length):
        calls = [(start, length)] if passes is None else [(i, 1) for i in range(start, start + length)]
        for first, count in calls:
            at = place(evaluations_of(plan, dtype, first, count))
            inputs = unet, backward, latents, at, conditioning, guide, draws
            if passes in (None, "together"):
                latents, after = scan(*inputs, renoises=plan.recurrences > 0, trajectory=trajectory)
            else:
                latents = evaluate(*inputs, renoises=plan.recurrences > 0, passes=passes)
                after = latents[None]
            steps += [after] if trajectory else []
        if not jnp.isfinite(latents).all():
            raise FloatingPointError(f"latents are not finite after evaluation {start + length} of {len(plan)}")
        if progress is not None:
            progress(start + length, len(plan))
    return (latents, jnp.concatenate(steps)) if trajectory else latents
