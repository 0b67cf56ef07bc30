"""The training part of `python -m sample.benchmark --train`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax

from sample.benchmarking import collectives, flops, timing, train_versus_diffusers, train_workload
from sample.benchmarking.options import Options, Training
from sample.benchmarking.timing import Program, progress
from sample.benchmarking.train_workload import TrainWorkload
from svdjax.parallel import mesh
from train.steps.settings import FinetuningSettings


def training(options: Options, asked: Training) -> dict[str, Any]:
    """A training step: what compiling it says and, unless that is all that is wanted, what running it says."""
    sizes = asked.mesh or {"data": 1}
    devices = mesh.make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    mesh.check_batch(asked.batch_size, 1, devices)
    how = FinetuningSettings(asked.batch_size, options.num_frames, options.size, remat=asked.remat)
    allocate = not options.compile_only
    load = train_workload.make(options.config, how, options.dtype, devices, allocate=allocate)
    state, *_ = load.arguments
    results = {
        "mesh": dict(devices.shape),
        "batch_size": asked.batch_size,
        "remat": asked.remat,
        "trained_parameters": sum(x.size for x in state.trained.values()),
    }
    progress("counting operations")
    results["train_step_flops"] = flops.count(load.update, *load.arguments)
    progress("compiling the training step" + (" twice: cold, then from a warm cache" if allocate else ""))
    program = timing.compile_program(load.update, load.arguments, warm=allocate, steps=True, **load.jit_options())
    results |= timing.plan("train_step", program) | {"train_step_total_bytes": program.total_bytes}
    if devices.size > 1:
        results["train_step_traffic"] = sent(program, load)
    if options.compile_only:
        return results
    if options.against_diffusers:
        progress("timing diffusers in turn with svdjax")
        # before any other step: the first is compared
        results["against_diffusers"] = train_versus_diffusers.compare(load, program, options.dtype, options.repeats)
    results |= timing.timed("train_step", program, options.repeats, results["train_step_flops"])
    results["train_steps_per_second"] = 1 / results["train_step_seconds"]
    rate = results["train_step_flops_per_second"] / devices.size
    return results | timing.against_matmul("train_step", rate, options.dtype)


def sent(program: Program, load: TrainWorkload) -> list[dict[str, Any]]:
    """What each device sends in a step, by kind of collective and mesh axes, for JSON."""
    return [dataclasses.asdict(row) for row in collectives.traffic(program.compiled, load.mesh)]
