"""Feed-forward layers at the shapes of each level of the UNet, with XLA's and with Pallas kernels, timed alternately."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sample.benchmarking import timing, workloads
from sample.gpu_report.channel import Reporter, Request
from svdjax.devices.xla_options import UNET_OPTIONS
from svdjax.kernels.choice import PALLAS, XLA, using
from svdjax.models.initialize import abstract
from svdjax.models.layers import FeedForward
from svdjax.models.svd import fill, leaves

CLIPS = 4  # of a dual step: two directions with and without conditioning
MOST_INTERPRETED = 2**16  # tokens times channels; a CPU interprets the kernels, slowly


def measure(request: Request, reporter: Reporter) -> None:
    """Report both times and the distance of the results for each level with attention."""
    config = request.config
    if not request.gpu:
        reporter.note("a CPU interprets Pallas kernels: the times say nothing about a GPU, only the distances count")
    layers, measured = {}, set()
    for level, (channels, kind) in enumerate(zip(config.unet.block_out_channels, config.unet.down_block_types, strict=True)):
        if "CrossAttn" not in kind:
            continue
        width, height = (side // config.vae.down_factor // 2**level for side in request.size)
        tokens = CLIPS * request.num_frames * width * height
        if not request.gpu:
            tokens = min(tokens, max(MOST_INTERPRETED // channels, 1))
        if (tokens, channels) in measured:
            continue
        measured.add((tokens, channels))
        reporter.progress(f"feed-forward of {tokens:,} tokens of {channels} channels")
        values = _compare(request, tokens, channels)
        layers[f"feed_forward_{level}"] = {"tokens": tokens, "channels": channels, **values}
        reporter.results({"layers": layers})
        if not values["uses_pallas"]:
            reporter.note(f"{tokens:,} tokens of {channels} channels: no Pallas kernel takes this shape, both are XLA's")


def _compare(request: Request, tokens: int, channels: int) -> dict[str, Any]:
    layer = abstract(lambda dim, **kw: FeedForward(dim, **kw), channels, request.dtype)
    layer = fill(layer, workloads.RandomWeights()(leaves(layer)))
    x = jax.random.normal(jax.random.key(0), (1, 1, tokens, channels), request.dtype)
    programs, used = {}, {}
    for name in (XLA, PALLAS):
        with using(name):
            used[name] = uses_pallas(_apply, layer, x)
            programs[name] = timing.compile_program(_apply, (layer, x), warm=False, compiler_options=UNET_OPTIONS)
    timings = timing.interleaved({name: program.run for name, program in programs.items()}, 4 * request.repeats)
    xla, pallas = (programs[name].run().astype(jnp.float32) for name in (XLA, PALLAS))
    return {
        **timings[XLA].to_json("xla_seconds"),
        **timings[PALLAS].to_json("pallas_seconds"),
        "xla_to_pallas": timings[XLA].median / timings[PALLAS].median,
        "scratch_bytes": {name: program.plan.scratch_bytes for name, program in programs.items()},
        "relative_difference": float(jnp.linalg.norm(pallas - xla) / jnp.linalg.norm(xla)),
        "uses_pallas": used[PALLAS],
        "flops": 2 * math.prod((tokens, channels, 12 * channels)),
    }


def uses_pallas(fn: Callable[..., Any], *args: Any) -> bool:
    """Whether a function, as it is traced now, calls a Pallas kernel."""
    return "pallas_call" in str(jax.make_jaxpr(fn)(*args))


def _apply(layer: nnx.Module, x: jax.Array) -> jax.Array:
    return layer(x)
