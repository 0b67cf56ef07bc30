"""Decode the latents of clips to frames stage by stage, exactly, within a plan's memory.

The stages are those of `svdjax.models.vae_stages`, each in a program of its own, one clip at a time. An activation is a list
of arrays with a few frames each, so that the input of a stage leaves the device while its wider result arrives. Under a plan
with `in_passes`, large activations are kept in host memory. Groups of frames are copied to the device for the spatial layers,
blocks of rows twice for a temporal resnet, the first time for its norm statistics. The next group is sent before the last
result has arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import VAEConfig
from svdjax.decoding.decode_steps import Activation, DecodePlan, Step, abstract_vae, finish, jitted, steps_of
from svdjax.devices.target import target
from svdjax.memory.programs import Compile, Phase, Program, bytes_of
from svdjax.models.svd import on_device
from svdjax.models.vae import VAE
from svdjax.models.vae_stages import (
    FRAMES,
    ROWS,
    Statistics,
    hidden_statistics,
    spatial_block,
    temporal_clip,
    temporal_rows,
)

Shape = tuple[int, int, int, int, int]  # (b, f, h, w, c)
Stored = list[Array] | np.ndarray  # an activation: groups of frames on the device, or in host memory
T = TypeVar("T")

# Scratch of programs by compiler, cached because plans share programs.
_scratch: WeakKeyDictionary[Compile, dict[Any, int]] = WeakKeyDictionary()

BLOCK_BYTES = 2**30  # large enough to keep a GPU busy
# Share of a peak that is free but unusable on an accelerator: groups of frames of different sizes leave free memory in pieces
# between them. In a simulation of JAX's allocator, clips of SVD-XT needed 5 to 16 % more than their peak.
UNUSABLE_SHARE = 0.16


def candidates(config: VAEConfig, latent_shape: Shape, dtype: Any) -> list[DecodePlan]:
    """Plans in order of cost, which is also the order of falling memory."""
    steps = _steps(config, latent_shape, dtype, DecodePlan(block_bytes=BLOCK_BYTES))
    sizes = sorted({step.result.nbytes for step in steps if step.temporal is not None})
    plans = [DecodePlan(block_bytes=BLOCK_BYTES, temporal=temporal) for temporal in ("whole", "stored", "twice")]
    # First only the largest activations are kept in host memory, then also smaller ones.
    below = sizes[:-1] or [0]
    plans += [DecodePlan(block_bytes=BLOCK_BYTES, in_passes=True, resident_bytes=most) for most in reversed(below)]
    return plans


def phase(config: VAEConfig, latent_shape: Shape, dtype: Any, plan: DecodePlan, compile_program: Compile) -> Phase:
    """Memory of a plan: the decoder's weights, latents, activations and the scratch of the program where their sum is largest.

    Args:
        config: of the VAE.
        latent_shape: (b, f, h, w, c).
        dtype: compute dtype of the VAE.
        plan: see `DecodePlan`.
        compile_program: compiles the plan's programs.
    """
    resident = _weights_and_latents(config, latent_shape, dtype)
    known = _scratch.setdefault(compile_program, {})
    phases = []
    for program, activations, _ in programs(config, latent_shape, dtype, plan):
        key = target(), program.key
        if key not in known:
            known[key] = compile_program(program).scratch_bytes
        at_once = Phase(name="decode", resident_bytes=resident + activations, scratch_bytes=known[key], program=program.name)
        phases.append(at_once)
    largest = max(phases, key=lambda phase: phase.peak_bytes)
    return largest if target().is_cpu else replace(largest, unusable_bytes=int(UNUSABLE_SHARE * largest.peak_bytes))


def least_bytes(config: VAEConfig, latent_shape: Shape, dtype: Any, plan: DecodePlan) -> int:
    """Lower bound of the memory that `phase` needs, without compiling: to leave out plans that can't fit."""
    steps = _steps(config, latent_shape, dtype, plan)
    return _weights_and_latents(config, latent_shape, dtype) + max(step.least_bytes for step in steps)


def transfer_bytes(config: VAEConfig, latent_shape: Shape, dtype: Any, plan: DecodePlan) -> int:
    """Bytes between host and device for all clips, without weights, latents and frames."""
    return latent_shape[0] * sum(step.transfer_bytes for step in _steps(config, latent_shape, dtype, plan))


def _weights_and_latents(config: VAEConfig, latent_shape: Shape, dtype: Any) -> int:
    latents = bytes_of(jax.ShapeDtypeStruct(latent_shape, jnp.float32))  # the sampler's, and a scaled copy
    return bytes_of(abstract_vae(config, jnp.dtype(dtype)).decoder) + 2 * latents


def _steps(config: VAEConfig, latent_shape: Shape, dtype: Any, plan: DecodePlan) -> Iterator[Step]:
    return steps_of(abstract_vae(config, jnp.dtype(dtype)), latent_shape[1:], plan)


def programs(config: VAEConfig, latent_shape: Shape, dtype: Any, plan: DecodePlan) -> list[tuple[Program, int, int]]:
    """The distinct programs, each with the largest size of the activations that are on the device while it runs, and its runs.

    Args:
        config, latent_shape, dtype, plan: see `phase`.

    Returns:
        (program, bytes of activations, number of runs for all clips) in the order of their first run.
    """
    vae = abstract_vae(config, jnp.dtype(dtype))
    found: dict[Any, tuple[Program, int, int]] = {}

    def add(program: Program, activations: int, runs: int) -> None:
        first, most, before = found.get(program.key, (program, 0, 0))
        found[program.key] = first, max(most, activations), before + runs * latent_shape[0]

    last: Activation | None = None
    for step in steps_of(vae, latent_shape[1:], plan):
        for program in step.programs():
            add(*program)
        last = step.result
    assert last is not None
    groups = (last.group,) * (last.shape[FRAMES] // last.frames)
    result = last.nbytes // np.dtype(last.dtype).itemsize  # uint8
    add(Program(name="finish", fn=jitted(finish), args=(vae.decoder.time_conv_out, groups)), last.nbytes + result, 1)
    return list(found.values())


def decode(vae: VAE, latents: Array, scaling_factor: float, plan: DecodePlan) -> np.ndarray:
    """Decode the sampler's latents (b, f, h, w, c) to frames, uint8 (b, f, H, W, 3).

    Args:
        vae: its decoder's weights are on the device.
        latents: not yet divided by the scaling factor.
        scaling_factor: of the VAE's configuration.
        plan: see `DecodePlan`.
    """
    latents = latents / scaling_factor
    steps = list(steps_of(vae, latents.shape[1:], plan))
    clips = []
    for number in range(len(latents)):
        x: Stored = [latents[number : number + 1]]
        for step in steps:
            x, statistics = _spatial(step, x)
            if step.temporal is not None:
                x = _temporal(step, x, statistics)
        clips.append(np.asarray(jitted(finish)(vae.decoder.time_conv_out, tuple(x))))
    return np.concatenate(clips)


def _spatial(step: Step, x: Stored) -> tuple[Stored, tuple[Statistics, ...]]:
    """The spatial layers of a step; `x` is emptied or overwritten. Also the statistics of each group of frames."""
    size = step.result.frames
    run = jitted(spatial_block)

    def results() -> Iterator[tuple[Array, Statistics]]:
        for group, part in _groups(x, size):
            y, statistics = run(step.layers, step.norm, group, part, frames=size)
            del group
            if step.result.in_host:
                y.copy_to_host_async()
            yield y, statistics

    if not step.result.in_host:
        groups, statistics = zip(*_one_behind(results()), strict=True)
        return list(groups), statistics
    host = x if isinstance(x, np.ndarray) and x.shape == step.result.shape else np.empty(step.result.shape, step.result.dtype)
    collected = []
    for k, (y, statistics) in enumerate(_one_behind(results())):
        write(y, host[:, k * size : (k + 1) * size])
        collected.append(statistics)
        del y
    return host, tuple(collected)


def _groups(x: Stored, size: int) -> Iterator[tuple[Array, Array]]:
    """Groups of frames on the device, each with the number of a part of `size` frames. Lists are emptied in the process."""
    if isinstance(x, np.ndarray):
        for k in range(0, x.shape[FRAMES], size):
            yield to_device(x[:, k : k + size]), on_device(jnp.int32(0))
    else:
        while x:
            group = x.pop(0)
            for part in range(group.shape[FRAMES] // size):
                yield group, on_device(jnp.int32(part))
            del group


def _temporal(step: Step, x: Stored, first: Sequence[Statistics]) -> Stored:
    """The temporal half of a step, written over `x`; `first` are the statistics of each group of frames."""
    if not isinstance(x, np.ndarray):
        return list(jitted(temporal_clip)(step.temporal, tuple(x), first, size=step.rows, store=step.store))

    def blocks() -> Iterator[Array]:
        for k in range(0, x.shape[ROWS], step.rows):
            yield to_device(np.ascontiguousarray(x[:, :, k : k + step.rows]))

    statistics = jitted(hidden_statistics)
    second = tuple(_one_behind(statistics(step.temporal, rows, first) for rows in blocks()))

    def results() -> Iterator[Array]:
        for rows in blocks():
            y = jitted(temporal_rows)(step.temporal, rows, first, second)
            del rows
            y.copy_to_host_async()
            yield y

    for k, y in enumerate(_one_behind(results())):
        write(y, x[:, :, k * step.rows : (k + 1) * step.rows])
        del y
    return x


def to_device(x: np.ndarray) -> Array:
    """A copy of `x`, committed to the device as in the compiled programs; the transfer goes on while the host continues."""
    return on_device(jnp.asarray(x))


def write(y: Array, place: np.ndarray) -> None:
    """Copy `y` from the device to `place` in host memory."""
    place[...] = y


def _one_behind(results: Iterable[T]) -> Iterator[T]:
    """Yield each of `results` when it is finished; the next one is started before.

    Transfers and computation overlap. A host that ran further ahead would allocate results before the inputs of earlier
    programs are freed.
    """
    waiting: list[T] = []
    for result in results:
        waiting.append(result)
        del result
        if len(waiting) == 2:
            yield jax.block_until_ready(waiting.pop(0))
    yield from jax.block_until_ready(waiting)
