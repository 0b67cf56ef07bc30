"""New frames between those of a sampled clip: interpolated latents, refined by the model's last steps in windows.

After DiffuseSlide (Hwang et al. 2025), a training-free method: latents are interpolated between neighbours, noised to a low
level, and sampled again in overlapping windows; the predictions of the windows are averaged. Here the original frames are kept
exactly, and each window is conditioned on the original frames at both its ends, if the method has two directions.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import EDMConfig
from svdjax.devices.placing import put
from svdjax.frame_rate.windows import Windows, frames_at_rate, windows_of
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.unet import UNet
from svdjax.parallel import divided
from svdjax.sampling import edm
from svdjax.sampling.draws import Draws
from svdjax.sampling.passes import evaluate
from svdjax.sampling.prediction import Conditioning
from svdjax.sampling.runs import Run, window_program
from svdjax.sampling.sampler import guide_of, scan
from svdjax.sampling.settings import Settings

LEVELS, FIRST = 25, 17  # DiffuseSlide's: the steps of 25 from number 17 on, 1.3 for SVD's noise levels


def levels(config: EDMConfig) -> np.ndarray:
    """The noise levels of the refinement and a final 0, float64."""
    return edm.karras_sigmas(LEVELS, config)[FIRST:]


def interpolate(latents: Array, rate: int) -> Array:
    """Spherical interpolation between neighbouring frames: (b, f, h, w, c) -> (b, rate * (f - 1) + 1, h, w, c)."""
    axes = (-3, -2, -1)
    first, second = latents[:, :-1], latents[:, 1:]
    norms = [jnp.sqrt(jnp.square(x).sum(axes, keepdims=True)) for x in (first, second)]
    cosine = (first * second).sum(axes, keepdims=True) / jnp.maximum(norms[0] * norms[1], 1e-30)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    straight = jnp.sin(angle) < 1e-4  # equal or opposite frames: linear

    def weight(share: float) -> Array:
        return jnp.where(straight, share, jnp.sin(share * angle) / jnp.where(straight, 1, jnp.sin(angle)))

    def between(share: float) -> Array:
        return weight(1 - share) * first + weight(share) * second

    new = jnp.stack([first, *(between(k / rate) for k in range(1, rate))], 2)
    b, gaps, _, *shape = new.shape
    return jnp.concatenate([new.reshape(b, gaps * rate, *shape), latents[:, -1:]], 1)


def refine(
    unet: UNet,
    backward: Backward | None,
    latents: Array,
    draws: Draws,
    conditionings: Sequence[Conditioning],
    windows: Windows,
    settings: Settings,
    *,
    run: Run,
    scheduler: EDMConfig,
    passes: str = "together",
    clean: bool = False,
    progress: Callable[[int], object] = lambda done: None,
) -> Array:
    """Sample the new frames from a low noise level; a UNet call sees one window, by one program for all of them.

    It is the program of the clip's own updates where there is one, see `runs.window_program`: a step to the noise level 0 gives
    the denoised latents. Their mean over windows is that of the mean prediction: all windows have the same noisy latents.

    Args:
        unet: the forward UNet.
        backward: the backward half; None if the conditioning has one direction.
        latents: of the original frames, (b, f, h, w, c).
        draws: of the clip; `rate` is the noise.
        conditionings: of each window, with keyframes' latents if the clip's has them; they are not used.
        windows: of the clip.
        settings: its guidance and fusion are used.
        run: the updates of the clip.
        scheduler: the range of noise levels.
        passes: a key of `svdjax.sampling.passes.PASSES`.
        clean: whether the clip had previews, which are another program.
        progress: called after each step with the number of UNet evaluations.

    Returns:
        (b, rate * (f - 1) + 1, h, w, c); every `rate`-th frame equals the one of `latents`, up to rounding.

    Raises:
        FloatingPointError: latents that are not finite.
    """
    dtype = stats_dtype(unet.dtype)
    mesh, replicated, of_clips = divided.placements(unet, len(latents))
    place = functools.partial(put, sharding=replicated)
    sigmas = levels(scheduler)
    guide = guide_of(dataclasses.replace(settings, num_frames=windows.length), len(conditionings[0].image_embeds), dtype)
    kind, numbers = window_program(run, settings, windows.rate, dtype)
    noise = draws.rate_noise(frames_at_rate(latents.shape[1], windows.rate)).astype(dtype)
    guide, noise, draws = place((guide, noise, draws))
    x = _noised(latents.astype(dtype), noise, sigmas[0], windows.rate)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        row = place(numbers | {"sigma": jnp.asarray([sigma], dtype), "sigma_next": jnp.zeros(1, dtype)})
        total, count = jnp.zeros_like(x), place(jnp.zeros(x.shape[1], dtype))
        for start, conditioning in zip(windows.starts, conditionings, strict=True):
            call = unet, backward, put(_part(x, start, windows.length), of_clips), row, conditioning, guide, draws, None
            if passes == "together":
                denoised = scan(*call, kind=kind, trajectory=False, clean=clean, mesh=mesh)[0]
            else:
                denoised = evaluate(*call, kind=kind, passes=passes)[0]
            total, count = _add(total, count, denoised, start)
        x = _step(x, total, count, latents.astype(dtype), sigma, sigma_next, windows.rate)
        if not jnp.isfinite(x).all():
            raise FloatingPointError(f"latents are not finite after step {i + 1} of {len(sigmas) - 1} at the higher frame rate")
        progress((i + 1) * len(windows.starts))  # the step has ended: the check waited for it
    return x


def rate_evaluations(num_frames: int, rate: int, scheduler: EDMConfig) -> int:
    """UNet evaluations of `refine` for a clip of `num_frames` frames; none for rate 1."""
    return len(windows_of(num_frames, rate).starts) * (len(levels(scheduler)) - 1) if rate > 1 else 0


@functools.partial(jax.jit, static_argnames=("rate",))
def _noised(latents: Array, noise: Array, sigma: float, rate: int) -> Array:
    return interpolate(latents, rate) + sigma * noise


@functools.partial(jax.jit, static_argnames=("length",))
def _part(x: Array, start: int, length: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, length, 1)


@jax.jit
def _add(total: Array, count: Array, denoised: Array, start: int) -> tuple[Array, Array]:
    """Add a window's denoised latents to the sum over windows, and count them."""
    frames = start + jnp.arange(denoised.shape[1])
    return total.at[:, frames].add(denoised), count.at[frames].add(1)


@functools.partial(jax.jit, static_argnames=("rate",))
def _step(x: Array, total: Array, count: Array, latents: Array, sigma: float, sigma_next: float, rate: int) -> Array:
    """An Euler step to the mean of the denoised latents, in which the original frames replace their own."""
    denoised = total / count[:, None, None, None]
    return edm.euler_step(x, denoised.at[:, ::rate].set(latents), jnp.asarray(sigma, x.dtype), jnp.asarray(sigma_next, x.dtype))
