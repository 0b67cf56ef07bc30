"""Options of `sample.benchmark --train`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from sample.planning import compiling
from svdjax.errors import InputError
from svdjax.kernels.choice import PALLAS
from svdjax.parallel import mesh


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training step.

    Attributes:
        batch_size: clips per step, over all devices.
        mesh: size of each axis; None for one device.
        remat: recompute activations instead of keeping them.
        cached: plan a run with a latent cache.
    """

    batch_size: int
    mesh: dict[str, int] | None
    remat: bool
    cached: bool = False

    def arguments(self) -> list[str]:
        """The options as on a command line."""
        remat = [] if self.remat else ["--no-remat"]
        cached = ["--cache-latents"] if self.cached else []
        return ["--train", "--batch-size", str(self.batch_size), *remat, *cached, *mesh_arguments(self.mesh)]


def mesh_arguments(sizes: Mapping[str, int] | None) -> list[str]:
    """`--mesh` as on a command line; nothing for None."""
    return [] if sizes is None else ["--mesh", ",".join(f"{axis}={size}" for axis, size in sizes.items())]


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = p.add_argument_group("a training step")
    group.add_argument("--train", action="store_true", help="measure a step of train.backward on encoded videos")
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help="clips per step over all devices (default: product of the sizes of the mesh axes data and fsdp)",
    )
    group.add_argument("--no-remat", action="store_true", help="keep all activations: faster, but much more memory")
    group.add_argument(
        "--cache-latents",
        action="store_true",
        help="with --target and --memory: plan a run with a latent cache, and filling the cache",
    )
    group.add_argument(
        "--mesh",
        metavar="AXES",
        help="device mesh: of sampling, such as guidance=2,columns=4; with --train, such as data=2,fsdp=4; with --compile-only "
        "the devices are simulated CPUs (default: one device)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options of a training step without `--train`, and wrong combinations of them."""
    given = {
        "--batch-size": args.batch_size,
        "--no-remat": args.no_remat,
        "--cache-latents": args.cache_latents,
    }
    if not args.train and any(given.values()):
        option = next(name for name, value in given.items() if value)
        raise InputError(f"{option} applies only to a training step: expected --train too")
    if args.cache_latents and (args.target is None or args.memory is None):
        raise InputError("--cache-latents changes only the plan of a run: expected --target and --memory too")
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}, expected at least 1")
    if args.against and args.mesh is not None:
        raise InputError("--against diffusers runs on one device: expected no --mesh")
    if args.kernels == PALLAS and args.mesh is not None:  # XLA would gather the inputs of each kernel on every device
        raise InputError("--kernels pallas runs on one device: expected no --mesh")


def parse_mesh(text: str, args: argparse.Namespace) -> dict[str, int]:
    """The size of each mesh axis. With `--compile-only` JAX is set up with as many CPU devices as the mesh has."""
    sizes = mesh.parse_mesh(text, mesh.AXES if args.train else mesh.SAMPLING_AXES)
    if not args.compile_only:
        return sizes
    devices = math.prod(sizes.values())
    if -1 in sizes.values():
        raise InputError(f"--mesh {text}: -1 stands for the available devices, but --compile-only and --target use none")
    if args.target is None:
        _simulate(devices)
    elif devices > (most := compiling.DEVICES_OF_HOST) and devices % most:
        raise InputError(f"--mesh {text}: {devices} devices, expected at most {most}, those of one host, or hosts of {most}")
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


def mesh_sizes(args: argparse.Namespace) -> dict[str, int] | None:
    """Sizes of the mesh axes; None without `--mesh`. Starts JAX's backend if the devices are its own.

    Raises:
        InputError: a wrong mesh.
    """
    if args.mesh is None:
        return None
    sizes = parse_mesh(args.mesh, args)
    return sizes if args.compile_only else mesh.mesh_sizes(sizes, len(jax.devices()))


def checked_options(args: argparse.Namespace, sizes: dict[str, int] | None) -> TrainingOptions | None:
    """Options of a training step on a mesh of these sizes; None without `--train`."""
    if not args.train:
        return None
    shares = math.prod((sizes or {}).get(axis, 1) for axis in mesh.BATCH_AXES)
    return TrainingOptions(args.batch_size or shares, sizes, not args.no_remat, args.cache_latents)
