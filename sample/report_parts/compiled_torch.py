"""The official step in PyTorch with `torch.compile`, alternately with the eager step. JAX is not used in this process."""

from __future__ import annotations

import dataclasses
import time

from sample.benchmarking import timing
from sample.gpu_report.channel import Reporter, Request


def measure(request: Request, reporter: Reporter) -> None:
    """Report the times of the eager and the compiled step, and how long compiling took."""
    import torch

    from sample.benchmarking.torch_dual_step import OfficialStep, random_inputs, random_weights

    device, dtype = "cuda" if request.gpu else "cpu", getattr(torch, request.dtype)
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("high" if request.gpu else "highest")
    reporter.progress("making random weights")
    config = dataclasses.asdict(request.config.unet)
    width, height = (side // request.config.vae.down_factor for side in request.size)
    weights = random_weights(config, dtype)
    inputs = random_inputs(config, (request.num_frames, height, width, request.config.vae.latent_channels), dtype)
    eager, compiled = OfficialStep(config, *weights), OfficialStep(config, *weights)
    compiled.forward.compile()
    compiled.backward.compile()

    def run(step: OfficialStep) -> torch.Tensor:
        v = step(inputs)[1]
        if request.gpu:
            torch.cuda.synchronize()
        return v

    expected = run(eager)
    reporter.progress("compiling both UNets")
    started = time.perf_counter()
    found = run(compiled)
    difference = float((found - expected).norm() / expected.norm())
    reporter.results({"compile_seconds": time.perf_counter() - started, "relative_difference": difference})
    reporter.progress("timing both alternately")
    timings = timing.interleaved({"eager": lambda: run(eager), "compiled": lambda: run(compiled)}, request.repeats)
    reporter.results(
        {
            **timings["eager"].to_json("eager_seconds"),
            **timings["compiled"].to_json("compiled_seconds"),
            "compiled_to_eager": timings["compiled"].median / timings["eager"].median,
        }
    )
