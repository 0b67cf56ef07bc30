"""Options of `sample.benchmark --train`."""

from __future__ import annotations

import argparse
import math
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
        sizes = None if self.mesh is None else ",".join(f"{axis}={size}" for axis, size in self.mesh.items())
        remat = [] if self.remat else ["--no-remat"]
        cached = ["--cache-latents"] if self.cached else []
        return ["--train", "--batch-size", str(self.batch_size), *remat, *cached, *([] if sizes is None else ["--mesh", sizes])]


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
        help="device mesh, such as data=2,fsdp=4; with --compile-only the devices are simulated CPUs (default: one device)",
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options of a training step without `--train`, and wrong combinations of them."""
    given = {
        "--batch-size": args.batch_size,
        "--no-remat": args.no_remat,
        "--cache-latents": args.cache_latents,
        "--mesh": args.mesh,
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
    sizes = mesh.parse_mesh(text)
    if not args.compile_only:
        return sizes
    devices = math.prod(sizes.values())
    if -1 in sizes.values():
        raise InputError(f"--mesh {text}: -1 stands for the available devices, but --compile-only and --target use none")
    if args.target is None:
        _simulate(devices)
    elif devices > compiling.MOST_DEVICES:
        raise InputError(f"--mesh {text}: {devices} devices, expected at most {compiling.MOST_DEVICES}, those of one host")
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


def checked_options(args: argparse.Namespace) -> TrainingOptions | None:
    """Options of a training step; None without `--train`. Starts JAX's backend if there is a mesh of its devices.

    Raises:
        InputError: a wrong mesh.
    """
    sizes = None if args.mesh is None else parse_mesh(args.mesh, args)
    if not args.train:
        return None
    if sizes is not None and not args.compile_only:
        sizes = mesh.mesh_sizes(sizes, len(jax.devices()))
    shares = math.prod((sizes or {}).get(axis, 1) for axis in mesh.BATCH_AXES)
    return TrainingOptions(args.batch_size or shares, sizes, not args.no_remat, args.cache_latents)
