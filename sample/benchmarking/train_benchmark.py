"""The benchmark of a training step: `python -m sample.benchmark --train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from sample.benchmarking import flops, timing, train_versus_diffusers, train_workload
from sample.benchmarking.options import BenchmarkOptions
from sample.benchmarking.results import Measurements, ProgramResult, TrainingSetup
from sample.benchmarking.timing import progress
from sample.benchmarking.train_workload import TrainWorkload
from sample.benchmarking.training_options import TrainingOptions
from sample.planning import collectives, compiling
from sample.planning.options import TargetOptions
from sample.planning.plan import Plan, Planner
from sample.planning.targets import card as card_of
from svdjax.devices.budget import GIB, for_programs
from svdjax.devices.target import NVIDIA_GPU, made_for
from svdjax.memory.programs import Program
from svdjax.parallel import mesh
from train.steps.settings import FinetuningSettings
from train.steps.state import State
from train.steps.train_plan import make_plan


def plan_training(options: BenchmarkOptions, training: TrainingOptions, target: TargetOptions) -> Plan:
    """Compile a training step for a card that need not be present.

    Raises:
        InputError: the extra is missing, or a step doesn't fit in the memory of the options.
    """
    card = card_of(target.name)
    sizes = training.mesh or {"data": 1}
    devices = compiling.devices_of(card, math.prod(sizes.values()))
    grid = mesh.make_mesh(sizes, devices)
    mesh.check_batch(training.batch_size, 1, grid)
    settings = _settings(options, training)
    planner, whole = Planner(card, devices, target.hlo, grid), None
    with made_for(NVIDIA_GPU):
        if target.memory is not None:
            budget, cached = for_programs(target.memory * GIB), training.cached
            whole = make_plan(options.config, settings, options.dtype, budget, grid, cached=cached, compile=planner)
        workload = train_workload.make(options.config, settings, options.dtype, grid, allocate=False)
    if whole is None:
        jit = {"donate_argnums": 0, **workload.jit}
        planner.plan(Program(name="train_step", fn=workload.update, args=workload.arguments, jit=jit))
    plan = Plan(card=card, programs=planner.programs, training=_setup(workload, training))
    return plan if whole is None else dataclasses.replace(plan, phases=whole.phases, description=whole.describe())


def measure_training(
    options: BenchmarkOptions, training: TrainingOptions, save: Callable[[Measurements], None]
) -> Measurements:
    """Compile a training step and, without `compile_only`, time it.

    Args:
        options, training: of the command.
        save: called with what is measured so far before each stage that takes long, which then begins with a line of progress.
    """
    sizes = training.mesh or {"data": 1}
    devices = mesh.make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    mesh.check_batch(training.batch_size, 1, devices)
    run = not options.compile_only
    workload = train_workload.make(options.config, _settings(options, training), options.dtype, devices, allocate=run)
    progress("compiling the training step" + (" twice: without a cache, then from a warm cache" if run else ""))
    program = timing.compile_program(workload.update, workload.arguments, warm=run, steps=True, **workload.jit)
    # runs and other memory layouts delete arrays
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), workload.arguments)
    state, *others = program.arguments
    step = ProgramResult(name="train_step", plan=program.plan)
    traffic = collectives.traffic(program.compiled, devices) if devices.size > 1 else None
    measured = Measurements(programs=[step], training=_setup(workload, training), traffic=traffic)
    save(measured)
    first = _in_host_memory(state) if options.against_diffusers else None  # timing donates the state
    if run:
        step = dataclasses.replace(step, timing=timing.time_program("train_step", program, options.repeats))
        measured = dataclasses.replace(measured, programs=[step])
        save(measured)
        measured = dataclasses.replace(measured, matmul=timing.matmul_limit(options.dtype))
        save(measured)
    progress("counting operations")
    step = dataclasses.replace(step, flops=flops.count(workload.update, *shapes))
    measured = dataclasses.replace(measured, programs=[step])
    if first is not None:
        save(measured)
        progress("timing diffusers and svdjax alternately")
        assert program.restart is not None
        first = first()
        program.restart(first)  # the first steps of both are compared
        workload = dataclasses.replace(workload, arguments=(first, *others))
        comparison = train_versus_diffusers.compare(workload, program, options.dtype, options.repeats)
        measured = dataclasses.replace(measured, comparison=comparison)
    return measured


def _in_host_memory(state: State) -> Callable[[], State]:
    """Copy a state to the host, where it doesn't count in the device's peak; return a function that puts the copy back."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    copy = jax.tree.map(np.array, state)
    return lambda: jax.device_put(copy, shardings)


def _settings(options: BenchmarkOptions, training: TrainingOptions) -> FinetuningSettings:
    return FinetuningSettings(
        batch_size=training.batch_size, num_frames=options.num_frames, size=options.size, remat=training.remat
    )


def _setup(workload: TrainWorkload, training: TrainingOptions) -> TrainingSetup:
    state, *_ = workload.arguments
    return TrainingSetup(
        mesh=dict(workload.mesh.shape),
        batch_size=training.batch_size,
        remat=training.remat,
        trained_parameters=sum(x.size for x in state.trained.values()),
    )
