"""The sampling step: time, share of the matrix product's speed, memory, compile times; PyTorch's step alternately."""

from __future__ import annotations

import dataclasses

from sample.benchmarking import flops, timing, versus_diffusers, workloads
from sample.benchmarking.results import Measurements, ProgramResult
from sample.gpu_report.channel import Reporter, Request
from svdjax.devices.xla_options import UNET_OPTIONS


def measure(request: Request, reporter: Reporter) -> None:
    """Report our step, then the comparison with the official step in PyTorch."""
    reporter.progress("making random weights")
    workload = workloads.make(request.config, request.size, request.num_frames, request.dtype, allocate=True)
    reporter.progress("compiling the step twice: without a cache, then from a warm cache")
    program = timing.compile_program(workloads.dual_step, workload.dual_step, warm=True, compiler_options=UNET_OPTIONS)
    step = ProgramResult(name="dual_step", plan=program.plan)
    reporter.results(step.to_json())
    reporter.progress("timing the step")
    step = dataclasses.replace(step, timing=timing.time_program("dual_step", program, request.repeats))
    reporter.results(step.to_json())
    reporter.progress("timing a large matrix product")
    matmul = timing.matmul_limit(request.dtype)
    reporter.results(Measurements(programs=[step], matmul=matmul).to_json())
    reporter.progress("counting operations")
    step = dataclasses.replace(step, flops=flops.count(workloads.dual_step, *workload.dual_step))
    reporter.results(Measurements(programs=[step], matmul=matmul).to_json())
    with reporter.attempt("comparison with PyTorch"):
        versus_diffusers.require_diffusers()
        reporter.progress("timing PyTorch's step and ours alternately")
        comparison = versus_diffusers.compare(workload, program, request.dtype, request.repeats)
        reporter.results({"against_diffusers": comparison.to_json()})
