"""Options for many pairs of keyframes, and for sharing them among processes."""

from __future__ import annotations

import argparse

import jax

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.parallel.cluster_plan import OPTIONS, Place
from svdjax.runtime import cli, compilation_cache, paths

PAIRS, FRAMES_IN = "--pairs", "--frames-in"


def add_batches(p: cli.Parser) -> None:
    """Add `--pairs` and `--frames-in`."""
    p.add_argument(
        PAIRS,
        type=paths.path,
        metavar="FILE.csv",
        help="make many videos: a table with the columns first, last, output, and any option of a clip, such as seed; paths "
        "are relative to its folder, an empty cell takes the command's value",
    )
    p.add_argument(
        FRAMES_IN,
        type=paths.path,
        metavar="DIR",
        help="numbered frames, such as 0001.png: new frames between each two neighbours, all joined to the one output",
    )


def add_hosts(p: cli.Parser) -> None:
    """Add the options for several processes, which `join` and `connect` read."""
    p.add_argument("--num-processes", type=int, metavar="N", help="processes that share the pairs, without Slurm or Kubernetes")
    p.add_argument("--process-id", type=int, metavar="I", help="number of this process from 0, with --num-processes")
    p.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, for one video over the devices of several processes; not needed for many pairs, for which "
        "the processes share only files",
    )


def is_batch(args: argparse.Namespace) -> bool:
    """Whether there are many pairs."""
    return args.pairs is not None or args.frames_in is not None


def join(args: argparse.Namespace) -> Place:
    """The place of this process among those that share the pairs; see `cluster.start_independently`."""
    return cluster.start_independently(args.coordinator, args.num_processes, args.process_id)


def connect(args: argparse.Namespace) -> None:
    """Join the processes that sample one video together, if there are any; see `cluster.start`.

    Processes that Slurm or Kubernetes starts are joined if `--mesh` is given; without it, each makes a video of its own.
    """
    given = [getattr(args, dest(option)) for option in OPTIONS]
    if args.mesh is not None or given != [None] * len(OPTIONS):
        cluster.start(*given)
        if jax.distributed.is_initialized():
            compilation_cache.enable()  # before the first exchange, whose program JAX would otherwise compile without a cache


def check_batch(args: argparse.Namespace) -> None:
    """Refuse options that name the input or output of one video.

    Raises:
        InputError: one of them is given.
    """
    if args.pairs is not None and args.frames_in is not None:
        raise InputError(f"{PAIRS} and {FRAMES_IN} are both given, expected one")
    option = PAIRS if args.frames_in is None else FRAMES_IN
    given = {
        "keyframes": args.keyframes,
        "--demo": args.demo,
        "--sheet": args.sheet,
        "--save-latents": args.save_latents,
        "--out": args.out if option == PAIRS else None,
    }
    advice = "a column of the table" if option == PAIRS else "left out"
    for name, value in given.items():
        if value not in (None, False, []):
            there = advice if name.startswith("--") and name != "--demo" else "left out"
            raise InputError(f"{name}: names one video, expected {there} with {option}")


def dest(option: str) -> str:
    """The attribute of an option."""
    return option.removeprefix("--").replace("-", "_")
