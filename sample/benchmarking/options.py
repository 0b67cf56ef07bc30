"""Command-line options of `sample.benchmark`, checked before anything is compiled."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import jax

from sample import sampling_options
from sample.benchmarking import versus_diffusers, workloads
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.parallel import mesh
from svdjax.runtime import cli, paths
from svdjax.runtime.dtypes import DTYPES, compute_dtype
from svdjax.runtime.output_paths import check_new_file


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training step.

    Attributes:
        batch_size: clips per step, over all devices.
        mesh: size of each axis; None for one device.
        remat: recompute activations instead of keeping them.
    """

    batch_size: int
    mesh: dict[str, int] | None
    remat: bool


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
        training: options of a training step; None to measure sampling.
    """

    config: SVDConfig
    model: str
    size: tuple[int, int]
    num_frames: int
    dtype: str
    compile_only: bool = False
    against_diffusers: bool = False
    repeats: int = 5
    training: TrainingOptions | None = None


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
    p.add_argument("--json", type=paths.path, metavar="FILE", help="write all numbers to FILE; an old FILE is replaced")
    train = p.add_argument_group("a training step")
    train.add_argument("--train", action="store_true", help="measure a step of train.backward on encoded videos")
    train.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help="clips per step over all devices (default: product of the sizes of the mesh axes data and fsdp)",
    )
    train.add_argument("--no-remat", action="store_true", help="keep all activations: faster, but much more memory")
    train.add_argument(
        "--mesh",
        metavar="AXES",
        help="device mesh, such as data=2,fsdp=4; with --compile-only the devices are simulated CPUs (default: one device)",
    )
    return p


def parse(argv: list[str] | None) -> tuple[BenchmarkOptions, Path | None]:
    """Parse and check the command line. Starts JAX's backend.

    Returns:
        The options, and the file of `--json` or None.

    Raises:
        InputError: a user error.
    """
    args = parser().parse_args(argv)
    check_arguments(args)
    check_training_arguments(args)
    sizes = None if args.mesh is None else parse_mesh(args.mesh, simulate=args.compile_only)
    if args.against:
        # PyTorch needs GPU memory too; by default JAX takes most of it when it starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        versus_diffusers.require_diffusers()
    preset = args.preset or ("svd-xt" if args.compile_only or jax.default_backend() == "gpu" else "small")
    config = workloads.PRESETS[preset] if args.model is None else find_model(args.model).config
    size = fit.parse_size(args.size) if args.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    num_frames = config.unet.num_frames if args.num_frames is None else args.num_frames
    if num_frames < 2:
        raise InputError(f"--num-frames is {num_frames}, expected at least 2")
    options = BenchmarkOptions(
        config=config,
        model=preset if args.model is None else args.model,
        size=size,
        num_frames=num_frames,
        dtype=args.dtype or ("bfloat16" if args.compile_only else compute_dtype()),
        compile_only=args.compile_only,
        against_diffusers=args.against is not None,
        repeats=args.repeats,
        training=training_options(args, sizes) if args.train else None,
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


def check_training_arguments(args: argparse.Namespace) -> None:
    """Refuse options of a training step without `--train`, and wrong combinations of them."""
    given = {"--batch-size": args.batch_size, "--no-remat": args.no_remat, "--mesh": args.mesh}
    if not args.train and any(given.values()):
        option = next(name for name, value in given.items() if value)
        raise InputError(f"{option} applies only to a training step: expected --train too")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}, expected at least 1")
    if args.against and args.mesh is not None:
        raise InputError("--against diffusers runs on one device: expected no --mesh")


def parse_mesh(text: str, *, simulate: bool) -> dict[str, int]:
    """The size of each mesh axis; with `simulate`, JAX is set up with as many CPU devices as the mesh has."""
    sizes = mesh.parse_mesh(text)
    if simulate:
        if -1 in sizes.values():
            raise InputError(f"--mesh {text}: -1 stands for the available devices, but --compile-only simulates devices")
        _simulate(math.prod(sizes.values()))
    return sizes


def _simulate(devices: int) -> None:
    """Make JAX start with this number of CPU devices and no other devices."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # JAX has already started
        available = len(jax.devices("cpu"))
        if available < devices:
            raise InputError(f"--mesh has {devices} devices, but JAX has already started with {available}") from None


def training_options(args: argparse.Namespace, sizes: dict[str, int] | None) -> TrainingOptions:
    """Options of a training step on a mesh of the given sizes."""
    if sizes is not None and not args.compile_only:
        sizes = mesh.mesh_sizes(sizes, len(jax.devices()))
    shares = math.prod((sizes or {}).get(axis, 1) for axis in mesh.BATCH_AXES)
    return TrainingOptions(args.batch_size or shares, sizes, not args.no_remat)


def command_line(options: BenchmarkOptions) -> str:
    """A command that repeats the benchmark, with every choice explicit."""
    width, height = options.size
    is_preset = workloads.PRESETS.get(options.model) == options.config
    arguments = ["--preset" if is_preset else "--model", options.model]
    arguments += ["--size", f"{width}x{height}", "--num-frames", str(options.num_frames), "--dtype", options.dtype]
    if options.training:
        arguments += ["--train", "--batch-size", str(options.training.batch_size)]
        arguments += [] if options.training.remat else ["--no-remat"]
        if options.training.mesh is not None:
            arguments += ["--mesh", ",".join(f"{axis}={size}" for axis, size in options.training.mesh.items())]
    arguments += ["--compile-only"] if options.compile_only else ["--repeats", str(options.repeats)]
    if options.against_diffusers:
        arguments += ["--against", "diffusers"]
    return shlex.join(["python", "-m", "sample.benchmark", *arguments])
