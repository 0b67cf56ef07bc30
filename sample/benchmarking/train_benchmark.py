"""The benchmark of a training step: `python -m sample.benchmark --train`."""

from __future__ import annotations

import math

import jax

from sample.benchmarking import collectives, flops, timing, train_versus_diffusers, train_workload
from sample.benchmarking.options import BenchmarkOptions, TrainingOptions
from sample.benchmarking.results import Measurements, ProgramResult, TrainingSetup
from sample.benchmarking.timing import progress
from svdjax.parallel import mesh
from train.steps.settings import FinetuningSettings


def measure_training(options: BenchmarkOptions, training: TrainingOptions) -> Measurements:
    """Compile a training step and, without `compile_only`, time it."""
    sizes = training.mesh or {"data": 1}
    devices = mesh.make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    mesh.check_batch(training.batch_size, 1, devices)
    settings = FinetuningSettings(
        batch_size=training.batch_size, num_frames=options.num_frames, size=options.size, remat=training.remat
    )
    run = not options.compile_only
    workload = train_workload.make(options.config, settings, options.dtype, devices, allocate=run)
    state, *_ = workload.arguments
    progress("counting operations")
    operations = flops.count(workload.update, *workload.arguments)
    progress("compiling the training step" + (" twice: without a cache, then from a warm cache" if run else ""))
    program = timing.compile_program(workload.update, workload.arguments, warm=run, steps=True, **workload.jit_options())
    comparison = None
    if options.against_diffusers:
        progress("timing diffusers and svdjax alternately")
        # before any other run of the program, because the first steps are compared
        comparison = train_versus_diffusers.compare(workload, program, options.dtype, options.repeats)
    step = ProgramResult(
        name="train_step",
        flops=operations,
        plan=program.plan,
        timing=timing.time_program("train_step", program, options.repeats) if run else None,
    )
    return Measurements(
        programs=[step],
        matmul=timing.matmul_limit(options.dtype) if run else None,
        training=TrainingSetup(
            mesh=dict(devices.shape),
            batch_size=training.batch_size,
            remat=training.remat,
            trained_parameters=sum(x.size for x in state.trained.values()),
        ),
        traffic=collectives.traffic(program.compiled, devices) if devices.size > 1 else None,
        comparison=comparison,
    )
