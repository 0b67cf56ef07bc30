"""Decoding a clip as a run on the local device does it: in one program on a CPU, staged on an accelerator."""

from __future__ import annotations

import time
from typing import Any

import jax

from sample.benchmarking import timing, workloads
from sample.benchmarking.results import ProgramPlan
from svdjax.config import SVDConfig
from svdjax.decoding import staged_decode
from svdjax.devices.budget import budget_bytes
from svdjax.devices.target import target
from svdjax.devices.xla_options import channels_last_options
from svdjax.memory.programs import Program, ProgramMemory, lower_here, memory_of
from svdjax.models.svd import DECODER, abstract_model, on_device, part_on_device
from svdjax.models.vae import VAE
from svdjax.sampling.clip_plan import plan_decoding
from svdjax.sampling.clip_work import ClipWork
from svdjax.sampling.settings import Settings


def compile_decode(config: SVDConfig, vae: VAE, latents: Any, dtype: Any, *, warm: bool) -> timing.Program:
    """Compile the decoding of a clip.

    Args:
        config: shapes of the model.
        vae, latents: arrays or shapes; latents (1, f, h, w, c), already divided by the scaling factor.
        dtype: of the model; the VAE's own may be wider.
        warm: see `timing.compile_program`; without effect on an accelerator.

    Returns:
        The program. Its result is float (1, f, H, W, 3) in [-1, 1] on a CPU, uint8 on an accelerator.
    """
    if target().is_cpu:
        return timing.compile_program(workloads.decode, (vae, latents), warm=warm, compiler_options=channels_last_options())
    limit = budget_bytes(None)
    used = (jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0)
    return staged(config, vae, latents, dtype, None if limit is None else limit - used)


def staged(config: SVDConfig, vae: VAE, latents: Any, dtype: Any, budget: int | None) -> timing.Program:
    """Decoding with the fastest plan that fits in `budget` bytes; None for no limit. For the other arguments see above."""
    _, frames, height, width, _ = latents.shape
    size, settings = (width * config.vae.down_factor, height * config.vae.down_factor), Settings(num_frames=frames)
    work = ClipWork(model=abstract_model(config, dtype), size=size, settings=settings)
    seconds = {"trace": 0.0, "compile": 0.0}

    def compile_program(program: Program) -> ProgramMemory:
        started = time.perf_counter()
        lowered = lower_here(program)
        traced = time.perf_counter()
        memory = memory_of(lowered.compile())
        seconds["trace"] += traced - started
        seconds["compile"] += time.perf_counter() - traced
        return memory

    with timing.fresh_cache():
        if budget is None:
            plan = staged_decode.candidates(config.vae, latents.shape, work.vae_dtype)[0]
        else:
            plan = plan_decoding(work, budget, name="the device's free memory", compile=compile_program)
        phase = staged_decode.phase(config.vae, latents.shape, work.vae_dtype, plan, compile_program)

    def run() -> Any:
        return staged_decode.decode(part_on_device(vae, DECODER), on_device(latents), 1.0, plan)

    needed = ProgramPlan(
        trace_seconds=seconds["trace"],
        compile_seconds=seconds["compile"],
        compile_seconds_warm=None,
        scratch_bytes=phase.scratch_bytes,
        argument_bytes=phase.resident_bytes,
        total_bytes=phase.peak_bytes,
    )
    return timing.Program(run=run, compiled=None, arguments=(vae, latents), plan=needed)
