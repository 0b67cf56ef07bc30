"""The sampler: the updates of a run in jitted scans. Euler updates are Algorithm 2 of Generative Inbetweening."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from svdjax.config import EDMConfig
from svdjax.devices.placing import put, to_host
from svdjax.devices.xla_options import UNET_OPTIONS
from svdjax.errors import InputError
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.parallel import divided
from svdjax.sampling.checks import check_progress, check_recurrence
from svdjax.sampling.draws import Draws
from svdjax.sampling.methods import Method, needs_keyframe_latents, run_of
from svdjax.sampling.passes import PASSES, add_noise, denoise, evaluate, first_row, inputs, predict, step
from svdjax.sampling.prediction import Conditioning, Guide, deep_constrained
from svdjax.sampling.runs import Kind, fused_directions
from svdjax.sampling.settings import Settings
from svdjax.scalars import whole_number

Progress = Callable[[int, int], object]  # called with the UNet evaluations done so far and in total
Observe = Callable[[np.ndarray], object]  # called with the disagreement of the directions, (n, b)
Preview = Callable[[Array], object]  # called with denoised latents, (b, f, h, w, c)


@functools.partial(
    jax.jit,
    static_argnames=("kind", "trajectory", "clean", "mesh"),
    donate_argnames=("latents",),
    compiler_options=UNET_OPTIONS,
)
def scan(
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    rows: dict[str, Array],
    conditioning: Conditioning,
    guide: Guide,
    draws: Draws,
    deep: Array | None = None,
    *,
    kind: Kind,
    trajectory: bool,
    clean: bool = False,
    mesh: Mesh | None = None,
) -> tuple[Array, Array | None, Array | None, Array | None]:
    """Run updates of one kind in order: add noise, predict, make the new latents.

    Args:
        unet: the forward UNet.
        backward: the backward half for updates with two directions; None for one.
        latents: (b, f, h, w, c).
        rows: their numbers, from `Run.rows`.
        conditioning: of the run's directions.
        guide: guidance scales and fusion weights.
        draws: the noise.
        deep: deep features to reuse, if the kind does.
        kind: see `Kind`.
        trajectory: see `sample`.
        clean: whether to return the denoised latents of every update, instead of those of `trajectory`.
        mesh: devices to divide the UNet calls over, see `prediction.predict_clips`.

    Returns:
        The final latents, the deep features if the kind stores them, and of every update with `trajectory` the latents after
        it, or with `clean` its denoised latents, and with two directions their disagreement, (n, b).
    """
    store = kind.deep == "store"

    def update(
        carry: tuple[Array, Array | None], at: dict[str, Array]
    ) -> tuple[tuple[Array, Array | None], tuple[Array | None, Array | None]]:
        latents, _ = carry
        latents = add_noise(latents, at, draws) if kind.renoises else latents
        v, kept = predict(unet, backward, inputs(latents, at, conditioning, kind), deep, store, mesh=mesh)
        denoised = denoise(latents, v, at, guide, kind) if clean else None
        latents, apart = step(latents, v, at, conditioning, guide, kind)
        return (latents, kept), (latents if trajectory else denoised, apart)

    if not store:
        (latents, _), (after, apart) = lax.scan(update, (latents, None), rows)
        return latents, None, after, apart
    (_, kept), _ = jax.eval_shape(update, (latents, None), first_row(rows))
    empty = jnp.zeros(kept.shape, kept.dtype)
    empty = empty if mesh is None else deep_constrained(empty, unet, mesh)
    (latents, kept), (after, apart) = lax.scan(update, (latents, empty), rows)
    return latents, kept, after, apart


def guide_of(settings: Settings, directions: int, dtype: DTypeLike) -> Guide:
    """The weights of a run; for `directions` see `runs.fused_directions`."""
    scale = settings.guidance_scale(directions)
    return Guide(None if (scale == 1).all() else jnp.asarray(scale, dtype), jnp.asarray(settings.forward_weight(), dtype))


@overload
def sample(
    unet: UNet,
    conditioning: Conditioning,
    settings: Settings,
    draws: Draws,
    *,
    scheduler: EDMConfig,
    backward: Backward | None = None,
    method: str | Method = "dual",
    progress: Progress | None = None,
    segments: int = 1,
    passes: str | None = None,
    observe: Observe | None = None,
    preview: Preview | None = None,
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
    method: str | Method = "dual",
    progress: Progress | None = None,
    segments: int = 1,
    passes: str | None = None,
    observe: Observe | None = None,
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
    method: str | Method = "dual",
    progress: Progress | None = None,
    segments: int = 1,
    passes: str | None = None,
    observe: Observe | None = None,
    preview: Preview | None = None,
    trajectory: bool = False,
) -> Array | tuple[Array, Array]:
    """Sample the latents of the clips between pairs of keyframes.

    Latents and sigmas are float32 (float64 for a float64 UNet); the UNet computes in its own dtype.

    Args:
        unet: the forward UNet.
        conditioning: of b pairs.
        settings: see `Settings`.
        draws: the initial and recurrence noise.
        scheduler: the range of noise levels.
        backward: the backward half; None if no update has two directions.
        method: its updates are run, a key of `METHODS` or a `Method`; `dual` for the other methods of Euler steps too.
        progress: called at most `segments` times with the UNet evaluations done so far and in total, see `Run.done`.
        segments: about the number of jitted scans that the run is divided into. More than one lets `progress` be called between
            them. It is not called from inside a scan: JAX never writes a program with Python callbacks to its persistent
            compilation cache, and a UNet takes minutes to compile.
        passes: a key of `svdjax.sampling.passes.PASSES`: each update is run alone, with these UNet calls, which needs less
            memory; None: scans.
        observe: called once with the disagreement of the directions in every update that has two, (n, b), see
            `prediction.disagreement`.
        preview: called before each call of `progress` with the denoised latents of the latest update, (b, f, h, w, c), an
            estimate of the result; not together with `trajectory`. Both may raise an exception to end the run.
        trajectory: also return the latents after every update.

    Returns:
        (b, f, h, w, c), before the division by the VAE's scaling factor; with `trajectory` a pair of these latents and
        (n, b, f, h, w, c), the latents after each of the n updates.

    Raises:
        InputError: `progress` can't be called, `segments` isn't a whole number of at least 1, `passes` is unknown, or `draws`
            have too few noises.
        FloatingPointError: the latents are not finite; the message gives the number of the evaluation.
    """
    check_progress(progress)
    if (parts := whole_number(segments)) is None or parts < 1:
        raise InputError(f"segments is {segments!r}, expected a whole number of at least 1")
    if passes is not None and passes not in PASSES:
        raise InputError(f"passes is {passes!r}, expected one of {', '.join(PASSES)}, or None")
    if preview is not None and trajectory:
        raise InputError("preview: expected no trajectory besides it")
    run = run_of(method, settings, scheduler, len(conditioning.image_embeds))
    check_recurrence(draws, run.recurrences)  # an index beyond the last noise would give the last
    if needs_keyframe_latents(method, settings) and conditioning.keyframe_latents is None:
        raise InputError(
            "conditioning.keyframe_latents is None, but the method or the prefix needs the keyframes' clean latents"
        )
    dtype = stats_dtype(unet.dtype)
    # placed like the output of the scan: with another placement, the second segment would compile again
    mesh, replicated, of_clips = divided.placements(unet, len(draws.initial))
    place = functools.partial(put, sharding=replicated)
    guide, draws = place((guide_of(settings, fused_directions(run.updates, run.directions), dtype), draws))
    latents = put(draws.initial.astype(dtype) * math.sqrt(run.sigma[0] ** 2 + 1), of_clips)
    calls = run.calls(parts)
    if passes is not None:
        calls = [(k, k + 1) for start, stop in calls for k in range(start, stop)]
    kept: dict[Any, Any] = {}  # deep features by stream
    steps, disagreements, reports = [], [], 0
    for start, stop in calls:
        kind, stream = run.kinds[start], run.stream(start)
        weights = guide if kind.guided else dataclasses.replace(guide, scale=None)
        at = place(run.rows(start, stop, dtype))
        call = unet, None if kind.single else backward, latents, at, conditioning, weights, draws
        deep = kept.get(stream) if kind.deep == "reuse" else None
        if kind.deep == "store":
            kept.pop(stream, None)  # its memory is freed before the call
        if passes in (None, "together"):
            options = {"trajectory": trajectory, "clean": preview is not None, "mesh": mesh}
            latents, stored, after, apart = scan(*call, deep, kind=kind, **options)
            latents = put(latents, of_clips)  # on a mesh, the program may have placed them otherwise
        else:
            latents, stored, apart, clean = evaluate(*call, deep, kind=kind, passes=passes, clean=preview is not None)
            after, apart = (latents if clean is None else clean)[None], None if apart is None else apart[None]
        kept |= {} if stored is None else {stream: stored}
        del stored, deep
        steps += [after] if trajectory else []
        disagreements += [] if apart is None else [apart]
        done = math.ceil(run.done[stop - 1])
        if (due := stop * parts // len(run)) > reports:
            reports = due
            if not jnp.isfinite(latents).all():
                raise FloatingPointError(f"latents are not finite after evaluation {done} of {run.evaluations}")
            if preview is not None and after is not None:
                preview(after[-1])
            if progress is not None:
                progress(done, run.evaluations)
    if observe is not None:
        observe(np.concatenate([np.zeros((0, len(latents)), np.float32), *map(to_host, disagreements)]))
    return (latents, jnp.concatenate(steps)) if trajectory else latents
