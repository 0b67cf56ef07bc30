"""The whole sampling step with XLA's and with Pallas kernels, timed alternately."""

from __future__ import annotations

import numpy as np

from sample.benchmarking import timing, workloads
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts.layer_kernels import uses_pallas
from sample.report_parts.parity import relative
from svdjax.devices.xla_options import UNET_OPTIONS
from svdjax.kernels.choice import PALLAS, XLA, using


def measure(request: Request, reporter: Reporter) -> None:
    """Report the times and the planned memory of both."""
    reporter.progress("making random weights")
    workload = workloads.make(request.config, request.size, request.num_frames, request.dtype, allocate=True)
    programs = {}
    for name in (PALLAS, XLA):
        reporter.progress(f"compiling with {name} kernels")
        with using(name):
            if name == PALLAS and not uses_pallas(workloads.dual_step, *workload.dual_step):
                reporter.note("no layer of this model uses a Pallas kernel")
                return
            programs[name] = timing.compile_program(
                workloads.dual_step, workload.dual_step, warm=False, compiler_options=UNET_OPTIONS
            )
        plan = programs[name].plan
        reporter.results({f"{name}_compile_seconds": plan.compile_seconds, f"{name}_scratch_bytes": plan.scratch_bytes})
    reporter.progress("timing both alternately")
    timings = timing.interleaved({name: program.run for name, program in programs.items()}, request.repeats)
    for name, seconds in timings.items():
        reporter.results(seconds.to_json(f"{name}_seconds"))
    pallas, xla = (np.asarray(program.run()[1], np.float64) for program in programs.values())
    ratio = timings[XLA].median / timings[PALLAS].median
    reporter.results({"xla_to_pallas": ratio, "relative_difference": relative(pallas, xla)})
