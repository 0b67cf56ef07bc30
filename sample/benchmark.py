"""`python -m sample.benchmark`: time, operations and memory of a sampling step and decoding, or of a training step."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import dataclasses
import datetime
import json
import math
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

import svdjax
from sample.benchmarking import decoding, flops, report, timing, train_benchmark, versus_diffusers, workloads
from sample.benchmarking.options import BenchmarkOptions, command_line, parse
from sample.benchmarking.results import Measurements, ProgramResult, Setup
from sample.benchmarking.timing import progress
from sample.benchmarking.workloads import Workload
from sample.gpu_report import run as gpu_report
from sample.gpu_report.options import ReportOptions
from sample.planning import collectives
from sample.planning.plan import Plan
from sample.planning.sampling import plan_for_card, plan_on_mesh
from sample.planning.targets import CARDS
from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.devices.target import NVIDIA_GPU
from svdjax.devices.xla_options import UNET_OPTIONS, channels_last_options
from svdjax.kernels.choice import using
from svdjax.models.initialize import abstract
from svdjax.models.unet import UNet
from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh
from svdjax.runtime import cli
from svdjax.runtime.atomic import new_file

MEMORY_ADVICE = "try a smaller --size or (--train) --batch-size, fewer --num-frames, --dtype bfloat16, or --compile-only"
MOST_DECODES = 3  # one decode takes as long as many steps


def measure(options: BenchmarkOptions, save: Callable[[Measurements], None]) -> Measurements | Plan:
    """Run the benchmark that the options ask for; `save` keeps what is measured before a stage that can fail."""
    if options.target is not None:
        if options.training is not None:
            return train_benchmark.plan_training(options, options.training, options.target)
        clip = options.config, options.size, options.num_frames, options.dtype, options.target
        return plan_for_card(*clip, options.defaults) if options.mesh is None else plan_on_mesh(*clip, options.mesh)
    if options.training is not None:
        return train_benchmark.measure_training(options, options.training, save)
    return plan_sampling(options) if options.compile_only else measure_sampling(options, save)


def plan_sampling(options: BenchmarkOptions) -> Measurements:
    """Compile a sampling step and the decoder; nothing is allocated or run."""
    shapes, mesh, fn, decode_fn = sampling_programs(options)
    progress("compiling dual_step")
    step = timing.compile_program(fn, shapes.dual_step, warm=False, compiler_options=UNET_OPTIONS)
    progress("compiling decode")
    decode = compile_decode(options, shapes, decode_fn)
    named = (("dual_step", step, fn, shapes.dual_step), ("decode", decode, decode_fn, shapes.decode))
    programs = [ProgramResult(name=name, flops=flops.count(fn, *args), plan=made.plan) for name, made, fn, args in named]
    return Measurements(programs=programs, **on_mesh(mesh, step))


def sampling_programs(options: BenchmarkOptions) -> tuple[Workload, Mesh | None, Callable[..., Any], Callable[..., Any]]:
    """The workload, the devices that it is divided over, a step and decoding."""
    mesh = None
    if options.mesh is not None:
        mesh = make_mesh(options.mesh, jax.devices()[: math.prod(options.mesh.values())], SAMPLING_AXES)
    clip = options.config, options.size, options.num_frames, options.dtype
    workload = workloads.make(*clip, allocate=not options.compile_only, mesh=mesh)
    step, decode = workloads.on_mesh(mesh)
    return workload, mesh, step, decode


def compile_decode(options: BenchmarkOptions, workload: Workload, decode: Callable[..., Any]) -> timing.Program:
    """Compile decoding; on a mesh, as one program."""
    if options.mesh is None:
        return decoding.compile_decode(options.config, *workload.decode, options.dtype, warm=False)
    return timing.compile_program(decode, workload.decode, warm=False, compiler_options=channels_last_options())


def on_mesh(mesh: Mesh | None, step: timing.Program) -> dict[str, Any]:
    """Fields of `Measurements` for a step on a mesh."""
    return {} if mesh is None else {"mesh": dict(mesh.shape), "traffic": collectives.traffic(step.compiled, mesh)}


def measure_sampling(options: BenchmarkOptions, save: Callable[[Measurements], None]) -> Measurements:
    """Time a sampling step and the decoder."""
    workload, mesh, fn, decode_fn = sampling_programs(options)
    progress("compiling dual_step twice: without a cache, then from a warm cache")
    step = timing.compile_program(fn, workload.dual_step, warm=True, compiler_options=UNET_OPTIONS)
    step_result = ProgramResult(
        name="dual_step",
        flops=flops.count(fn, *workload.dual_step),
        plan=step.plan,
        timing=timing.time_program("dual_step", step, options.repeats),
    )
    matmul = timing.matmul_limit(options.dtype)
    progress("compiling decode")
    decode = compile_decode(options, workload, decode_fn)
    decode_result = ProgramResult(
        name="decode",
        flops=flops.count(decode_fn, *workload.decode),
        plan=decode.plan,
        timing=timing.time_program("decode", decode, min(options.repeats, MOST_DECODES)),
    )
    measured = Measurements(programs=[step_result, decode_result], matmul=matmul, **on_mesh(mesh, step))
    if options.against_diffusers:
        save(measured)
        progress("timing diffusers and svdjax alternately")
        comparison = versus_diffusers.compare(workload, step, options.dtype, options.repeats)
        measured = dataclasses.replace(measured, comparison=comparison)
    return measured


def describe(options: BenchmarkOptions) -> Setup:
    """The model, clip, device and versions of a benchmark."""
    packages = ("jax", "jaxlib", "flax")
    width, height = options.size
    vae = options.config.vae
    unet = abstract(UNet, options.config.unet, options.dtype)
    return Setup(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=timing.device_name() if options.target is None else f"{CARDS[options.target.name].title}, compile target only",
        platform=jax.default_backend() if options.target is None else NVIDIA_GPU.platform,
        versions={
            "svdjax": svdjax.__version__,
            **{name: version(name) for name in packages},
            "python": platform.python_version(),
        },
        command=command_line(options),
        model=options.model,
        config=options.config.to_json(),
        unet_parameters=sum(x.size for x in jax.tree.leaves(nnx.state(unet))),
        width=width,
        height=height,
        num_frames=options.num_frames,
        latent_shape=[options.num_frames, height // vae.down_factor, width // vae.down_factor, vae.latent_channels],
        dtype=options.dtype,
        kernels=options.kernels,
        compile_only=options.compile_only,
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write or replace the file of `--json`, complete or not at all."""
    with new_file(path, f"--json {path}") as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def command(argv: list[str] | None) -> None:
    options, json_path = parse(argv)
    if isinstance(options, ReportOptions):
        gpu_report.make(options)
        return
    with out_of_memory_in_one_line(MEMORY_ADVICE), using(options.kernels):
        setup = describe(options)

        def save(measured: Measurements | Plan) -> None:
            if json_path:
                write_json(json_path, setup.to_json() | measured.to_json())

        measured = measure(options, save)
    print(report.plan_table(setup, measured) if isinstance(measured, Plan) else report.table(setup, measured))
    save(measured)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    sys.exit(main())
