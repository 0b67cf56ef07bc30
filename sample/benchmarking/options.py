"""The options of `sample.benchmark`, and what is checked of them before anything is compiled."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import jax

from sample.benchmarking import versus_diffusers, workloads
from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.media import fit
from svdjax.parallel import mesh
from svdjax.runtime import cli

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Training:
    """What is asked for of a training step.

    Attributes:
        batch_size: clips of a step, over all devices.
        mesh: size by axis, or None for one device.
        remat: whether activations are computed again instead of kept.
    """

    batch_size: int
    mesh: dict[str, int] | None
    remat: bool


@dataclass(frozen=True)
class Options:
    """A checked command line.

    Attributes:
        config: shapes of the model.
        model: where the configuration is from: the name of a preset, or a folder.
        size: (width, height) of the clip in pixels.
        num_frames: of the clip.
        dtype: of weights and computation.
        compile_only: neither allocate nor run anything.
        against_diffusers: also time PyTorch.
        repeats: timings of a step; the median counts.
        training: measure a training step instead of sampling.
    """

    config: SVDConfig
    model: str
    size: tuple[int, int]
    num_frames: int
    dtype: str
    compile_only: bool = False
    against_diffusers: bool = False
    repeats: int = 5
    training: Training | None = None


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m sample.benchmark",
        description="Time one sampling step of both directions under guidance, and decoding, or one training step, with "
        "random weights.",
    )
    p.add_argument(
        "--preset", choices=workloads.PRESETS, help="shapes of the model (svd-xt on a GPU and for --compile-only, else small)"
    )
    p.add_argument("--model", type=Path, metavar="DIR", help="take the shapes of a converted checkpoint instead")
    p.add_argument("--size", metavar="WxH", help="size of the clip (the model's)")
    p.add_argument("--num-frames", type=int, metavar="N", help="frames of the clip (the model's)")
    p.add_argument("--dtype", choices=DTYPES, help="compute dtype (bfloat16; float32 to run without a GPU)")
    p.add_argument("--compile-only", action="store_true", help="count operations and scratch memory; allocate and run nothing")
    p.add_argument("--against", choices=("diffusers",), help="also time the official way in PyTorch (needs svdjax[test])")
    p.add_argument("--repeats", type=int, default=Options.repeats, metavar="N", help="timings of a step (%(default)s)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all numbers; an old FILE is replaced")
    train = p.add_argument_group("a training step")
    train.add_argument("--train", action="store_true", help="measure a step of train.backward, its videos encoded already")
    train.add_argument("--batch-size", type=int, metavar="B", help="clips of a step over all devices (one a device)")
    train.add_argument("--no-remat", action="store_true", help="keep all activations: faster, much more memory")
    train.add_argument(
        "--mesh", metavar="AXES", help="such as data=2,fsdp=4 (one device); with --compile-only, of that many simulated CPUs"
    )
    return p


def check(argv: list[str] | None) -> tuple[Options, Path | None]:
    """Parse and check the command line: the options, and where the numbers go. Starts JAX's backend.

    Raises:
        InputError: a mistake in it.
    """
    args = parser().parse_args(argv)
    if args.model and args.preset:
        raise InputError("--model and --preset both give the shapes of the model: expected one of them")
    if args.against and args.compile_only:
        raise InputError("--against diffusers runs a step, --compile-only runs nothing: expected one of them")
    if args.repeats < 1:
        raise InputError(f"--repeats is {args.repeats}, expected at least 1")
    if args.json:
        check_json_path(args.json)
    sizes = _check_training(args)
    if args.against:
        # PyTorch needs room beside JAX, which otherwise takes most of a GPU when it starts
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        versus_diffusers.require()
    gpu = jax.default_backend() == "gpu"
    preset = args.preset or ("svd-xt" if gpu or args.compile_only else "small")
    config = checkpoint.read_info(args.model).config if args.model else workloads.PRESETS[preset]
    size = fit.parse_size(args.size) if args.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    num_frames = config.unet.num_frames if args.num_frames is None else args.num_frames
    if num_frames < 2:
        raise InputError(f"--num-frames is {num_frames}, expected at least 2")
    options = Options(
        config=config,
        model=str(args.model or preset),
        size=size,
        num_frames=num_frames,
        dtype=args.dtype or ("bfloat16" if gpu or args.compile_only else "float32"),
        compile_only=args.compile_only,
        against_diffusers=args.against is not None,
        repeats=args.repeats,
        training=_training(args, sizes) if args.train else None,
    )
    return options, args.json


def _check_training(args: argparse.Namespace) -> dict[str, int] | None:
    """What can be checked of a training step before JAX starts; the mesh as it is given."""
    given = {"--batch-size": args.batch_size, "--no-remat": args.no_remat, "--mesh": args.mesh}
    if not args.train and any(given.values()):
        option = next(name for name, value in given.items() if value)
        raise InputError(f"{option} is of a training step: expected --train beside it")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}, expected at least 1")
    if args.mesh is None:
        return None
    if args.against:
        raise InputError("--against diffusers runs on one device: expected no --mesh beside it")
    sizes = mesh.parse_mesh(args.mesh)
    if args.compile_only:
        if -1 in sizes.values():
            raise InputError(f"--mesh {args.mesh}: -1 stands for devices that are there, --compile-only simulates them")
        _simulate(math.prod(sizes.values()))
    return sizes


def _simulate(devices: int) -> None:
    """Have JAX start with that many CPU devices and nothing else."""
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # it has started already
        there = len(jax.devices("cpu"))
        if there < devices:
            raise InputError(f"--mesh is of {devices} devices, but JAX has started with {there} already") from None


def _training(args: argparse.Namespace, sizes: dict[str, int] | None) -> Training:
    if sizes is not None and not args.compile_only:
        sizes = mesh.mesh_sizes(sizes, len(jax.devices()))
    shares = math.prod((sizes or {}).get(axis, 1) for axis in mesh.BATCH_AXES)
    return Training(args.batch_size or shares, sizes, not args.no_remat)


def check_json_path(path: Path) -> None:
    """Refuse a file that can't be written.

    Raises:
        InputError: it can't.
    """
    if path.is_dir():
        raise InputError(f"--json {path}: is a folder, expected a file")
    if not path.parent.is_dir():
        raise InputError(f"--json {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--json {path}: can't write in {path.parent}")


def command_line(options: Options) -> str:
    """The command that does the same again, every choice spelled out."""
    width, height = options.size
    is_preset = workloads.PRESETS.get(options.model) == options.config
    arguments = [
        "--preset" if is_preset else "--model",
        options.model,
        "--size",
        f"{width}x{height}",
        "--num-frames",
        str(options.num_frames),
        "--dtype",
        options.dtype,
    ]
    if options.training:
        arguments += ["--train", "--batch-size", str(options.training.batch_size)]
        arguments += [] if options.training.remat else ["--no-remat"]
        if options.training.mesh is not None:
            arguments += ["--mesh", ",".join(f"{axis}={size}" for axis, size in options.training.mesh.items())]
    if options.compile_only:
        arguments.append("--compile-only")
    else:
        arguments += ["--repeats", str(options.repeats)]
    if options.against_diffusers:
        arguments += ["--against", "diffusers"]
    return shlex.join(["python", "-m", "sample.benchmark", *arguments])
