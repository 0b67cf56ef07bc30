"""Command-line options of `sample.benchmark`, checked before anything is compiled."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from sample import sampling_options
from sample.benchmarking import training_options, versus_diffusers, workloads
from sample.benchmarking.training_options import TrainingOptions
from sample.gpu_report import options as report_options
from sample.gpu_report.options import ReportOptions
from sample.planning import compiling
from sample.planning import options as target_options
from sample.planning.options import TargetOptions
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.kernels import choice
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.parallel import mesh, sampling_mesh
from svdjax.parallel.sampling_mesh import Frames
from svdjax.runtime import cli, paths
from svdjax.runtime.dtypes import DTYPES, compute_dtype
from svdjax.runtime.output_paths import check_new_file


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """A checked command line.

    Attributes:
        config: shapes of the model.
        model: source of the configuration: the name of a preset, or the value of `--model`.
        size: (width, height) of the clip in pixels.
        num_frames: frames of the clip.
        dtype: dtype of weights and computation.
        compile_only: allocate and run nothing.
        against_diffusers: also time PyTorch.
        repeats: timed runs of a step.
        kernels: the implementation of layers that have two, see `svdjax.kernels.choice`.
        training: options of a training step; None to measure sampling.
        mesh: size of each mesh axis for sampling; None for one device.
        target: the GPU to compile for; None for the local device.
        defaults: the model's own defaults of `Settings`.
    """

    config: SVDConfig
    model: str
    size: tuple[int, int]
    num_frames: int
    dtype: str
    compile_only: bool = False
    against_diffusers: bool = False
    repeats: int = 5
    kernels: str = choice.XLA
    training: TrainingOptions | None = None
    mesh: dict[str, int] | None = None
    target: TargetOptions | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m sample.benchmark",
        description="Time a sampling step of both directions with guidance and decoding, or a training step (random weights).",
    )
    p.add_argument(
        "--preset",
        choices=workloads.PRESETS,
        help="shapes of the model (default: svd-xt on a GPU and with --compile-only, else small)",
    )
    p.add_argument(
        "--model",
        type=paths.path_text,
        metavar="DIR",
        help=f"use the shapes of a model instead of --preset: {sampling_options.MODEL_HELP}",
    )
    p.add_argument("--size", metavar="WxH", help="size of the clip in pixels (default: the model's)")
    p.add_argument("--num-frames", type=int, metavar="N", help="frames of the clip (default: the model's)")
    p.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: bfloat16; float32 to run on a CPU)")
    p.add_argument("--compile-only", action="store_true", help="count operations and scratch memory; allocate and run nothing")
    p.add_argument("--against", choices=("diffusers",), help="also time the official code in PyTorch (needs the test extra)")
    p.add_argument(
        "--repeats", type=int, default=BenchmarkOptions.repeats, metavar="N", help="timed runs of a step (default: %(default)s)"
    )
    choice.add_kernels(p)
    p.add_argument("--json", type=paths.path, metavar="FILE", help="write all numbers to FILE; an old FILE is replaced")
    training_options.add_arguments(p)
    target_options.add_arguments(p)
    report_options.add_arguments(p)
    return p


def parse(argv: list[str] | None) -> tuple[BenchmarkOptions | ReportOptions, Path | None]:
    """Parse and check the command line. Starts JAX's backend, except for a report.

    Returns:
        The options, and the file of `--json` or None.

    Raises:
        InputError: a user error.
    """
    p = parser()
    args = p.parse_args(argv)
    report = report_options.check(args, p)
    if report is not None:
        return report, None
    target = target_options.check_arguments(args)
    if target is not None:
        args.compile_only = True
        compiling.start_without_gpu()
    check_arguments(args)
    training_options.check_arguments(args)
    if args.against:
        # PyTorch needs GPU memory too; by default JAX takes most of it when it starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        versus_diffusers.require_diffusers()
    sizes = training_options.mesh_sizes(args)
    training = training_options.checked_options(args, sizes)
    preset = args.preset or ("svd-xt" if args.compile_only or jax.default_backend() == "gpu" else "small")
    source = None if args.model is None else find_model(args.model)
    config = source.config if source else workloads.PRESETS[preset]
    size = fit.parse_size(args.size) if args.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    num_frames = config.unet.num_frames if args.num_frames is None else args.num_frames
    if num_frames < 2:
        raise InputError(f"--num-frames is {num_frames}, expected at least 2")
    if training is None and sizes is not None:
        parts = math.prod(sizes.get(axis, 1) for axis in mesh.BATCH_AXES)  # a clip for each
        frames = Frames(pairs=parts, guided=True, sizes=(size,), pixels=config.size_multiple)
        sampling_mesh.check_frames(sizes, frames)
    options = BenchmarkOptions(
        config=config,
        model=preset if args.model is None else args.model,
        size=size,
        num_frames=num_frames,
        dtype=args.dtype or ("bfloat16" if args.compile_only else compute_dtype()),
        compile_only=args.compile_only,
        against_diffusers=args.against is not None,
        repeats=args.repeats,
        kernels=args.kernels,
        training=training,
        mesh=sizes if training is None else None,
        target=target,
        defaults=source.defaults if source else {},
    )
    return options, args.json


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, and a `--json` file that can't be written."""
    if args.model is not None and args.preset:
        raise InputError("--model and --preset both give the shapes of the model: expected only one of them")
    if args.against and args.compile_only:
        raise InputError("--against diffusers runs a step, but --compile-only runs nothing: expected only one of them")
    if args.repeats < 1:
        raise InputError(f"--repeats is {args.repeats}, expected at least 1")
    if args.json:
        check_new_file(args.json, "--json", (args.json.suffix,), overwrite=True)  # any ending


def command_line(options: BenchmarkOptions) -> str:
    """A command that repeats the benchmark, with every choice explicit."""
    width, height = options.size
    is_preset = workloads.PRESETS.get(options.model) == options.config
    arguments = ["--preset" if is_preset else "--model", options.model]
    arguments += ["--size", f"{width}x{height}", "--num-frames", str(options.num_frames), "--dtype", options.dtype]
    arguments += ["--kernels", options.kernels] if options.kernels != choice.XLA else []
    arguments += options.training.arguments() if options.training else training_options.mesh_arguments(options.mesh)
    if options.target:
        arguments += options.target.arguments()
    else:
        arguments += ["--compile-only"] if options.compile_only else ["--repeats", str(options.repeats)]
    if options.against_diffusers:
        arguments += ["--against", "diffusers"]
    return shlex.join(["python", "-m", "sample.benchmark", *arguments])
