"""Decoding a clip: time, planned memory and real peak; PyTorch's decoding in chunks, as in the official code, alternately."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sample.benchmarking import flops, timing, versus_diffusers, workloads
from sample.benchmarking.decoding import compile_decode
from sample.benchmarking.results import ProgramResult
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts.parity import relative
from svdjax.diffusers_layout.config_files import other_json
from svdjax.memory.precision import stats_dtype
from svdjax.models.initialize import abstract
from svdjax.models.svd import fill, leaves
from svdjax.models.vae import VAE

CHUNK = 8  # frames that the official code decodes at a time
MOST_REPEATS = 3


def measure(request: Request, reporter: Reporter) -> None:
    """Report our decoding, then PyTorch's in the same precision and, on a GPU, in the official float16."""
    reporter.progress("making random weights")
    dtype = stats_dtype(request.dtype) if request.config.vae.force_upcast else request.dtype
    vae = abstract(VAE, request.config.vae, dtype)
    vae = fill(vae, workloads.RandomWeights()(leaves(vae)))
    width, height = (side // request.config.vae.down_factor for side in request.size)
    shape = (1, request.num_frames, height, width, request.config.vae.latent_channels)
    latents = jax.random.normal(jax.random.key(1), shape)
    reporter.progress("compiling")
    program = compile_decode(request.config, vae, latents, request.dtype, warm=True)
    decode = ProgramResult(name="decode", plan=program.plan)
    reporter.results({**decode.to_json(), "decode_dtype": str(jnp.dtype(dtype))})
    reporter.progress("timing")
    repeats = min(request.repeats, MOST_REPEATS)
    decode = dataclasses.replace(decode, timing=timing.time_program("decode", program, repeats))
    reporter.results(decode.to_json())
    decode = dataclasses.replace(decode, flops=flops.count(workloads.decode, vae, latents))
    reporter.results(decode.to_json())
    with reporter.attempt("comparison with PyTorch"):
        versus_diffusers.require_diffusers()
        reporter.progress("timing PyTorch's decoding and ours alternately")
        reporter.results(_compare(request, program, (vae, str(jnp.dtype(dtype))), latents, repeats))


def _compare(
    request: Request, program: timing.Program, decoder: tuple[VAE, str], latents: jax.Array, repeats: int
) -> dict[str, Any]:
    """Timings of both, and the distance of the frames: chunks change the picture, so it is more than rounding."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder

    vae, own = decoder
    device, _ = versus_diffusers.prepare_torch()
    config = other_json(request.config)["vae/config.json"]
    given = torch.from_numpy(np.moveaxis(np.array(latents[0]), -1, -3).copy()).to(device)

    def official(dtype: str) -> Callable[[], torch.Tensor]:
        with torch.device("meta"):
            network: Any = AutoencoderKLTemporalDecoder.from_config(config)
        network.load_state_dict(versus_diffusers.to_torch(leaves(vae), dtype, device), assign=True)
        network.requires_grad_(False).eval()
        chunks = given.to(getattr(torch, dtype)).split(CHUNK)

        def run() -> torch.Tensor:
            with torch.inference_mode():
                frames = torch.cat([network.decode(chunk, num_frames=len(chunk)).sample for chunk in chunks])
            if device == "cuda":
                torch.cuda.synchronize()
            return frames

        return run

    runs: dict[str, Callable[[], Any]] = {"ours": program.run, f"diffusers_{own}": official(own)}
    if device == "cuda":
        runs["diffusers_float16"] = official("float16")
        torch.cuda.reset_peak_memory_stats()
    frames = np.moveaxis(runs[f"diffusers_{own}"]().double().cpu().numpy(), -3, -1)
    decoded = program.run()[0]
    if decoded.dtype == np.uint8:
        decoded, frames = decoded / 127.5 - 1, frames.clip(-1, 1)
    values: dict[str, Any] = {"relative_difference_of_chunks": relative(decoded, frames), "chunk": CHUNK}
    if device == "cuda":
        values["diffusers_peak_bytes"] = torch.cuda.max_memory_allocated()
    timings = timing.interleaved(runs, repeats)
    for name, seconds in timings.items():
        values |= seconds.to_json(f"{name}_seconds")
        if name != "ours":
            values[f"ratio_{name.removeprefix('diffusers_')}"] = seconds.median / timings["ours"].median
    return {"against_diffusers": values}
