"""The process of a training command: its memory, and its connection to the others, which must run the same command."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from svdjax.devices import budget, malloc, xla_options
from svdjax.parallel import cluster
from svdjax.parallel.main_process import agreed
from svdjax.runtime import compilation_cache
from svdjax.version import __version__
from train.options.shared import RunOptions

Settings = TypeVar("Settings", bound=Mapping[str, Any])
_SMALL = 2**30  # bytes; steps of a smaller model are so short that allocating memory from the system takes much of their time
# Paths, which may have other names on each host (`same_settings` compares what is there), and options of one process.
_OF_EACH_PROCESS = ("data", "model", "init", "out", "workers", "coordinator", "num_processes", "process_id")


def start(options: RunOptions, model: Path | None, memory: float | None = None) -> None:
    """Set up this process before JAX is used.

    Args:
        options: the parsed command line.
        model: the checkpoint to train, or None for a new model.
        memory: GiB of each device that the run may use; None is what it has.

    Raises:
        InputError: the other processes can't be reached, or run another command or version.
    """
    budget.take_share(memory)
    xla_options.spare_threads()
    if model is None or _is_small(model):
        malloc.keep_freed()
    cluster.start(options.coordinator, options.num_processes, options.process_id)
    # JAX decides only once whether it has a cache: before the first program, which the comparison compiles.
    compilation_cache.enable()
    agreed(lambda: options, same_command)


def _is_small(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint have less than `_SMALL` bytes, or there is no checkpoint."""
    if not os.path.isfile(checkpoint / "config.json"):  # any other folder may hold millions of files
        return True
    return sum(path.stat().st_size for path in checkpoint.rglob("*") if os.path.isfile(path)) < _SMALL


def same_command(options: RunOptions) -> dict[str, str]:
    """What must be equal in all processes of a run, by the name that messages give it.

    A run with a difference would not fail: each process would compute its part with its own settings.
    """
    given = {name: value for name, value in vars(options).items() if name not in _OF_EACH_PROCESS}
    given["cache_latents"] = options.cache_latents is not None
    texts = {None: "not given", False: "not given", True: "given"}
    words = {
        "the stage" if name == "stage" else f"--{name.replace('_', '-')}": texts[value]
        if value is None or isinstance(value, bool)
        else str(value)
        for name, value in given.items()
    }
    return {"the version of svdjax": __version__, "the version of JAX": jax.__version__, **words}


def same_settings(identity: Callable[[], Settings]) -> Settings:
    """The settings that determine the run's results, equal in all processes.

    Args:
        identity: finds them, without waiting for other processes.

    Raises:
        InputError: a user error of `identity` in a process, or the first setting that differs, in every process.
    """
    return agreed(identity, lambda settings: {name: str(value) for name, value in settings.items()})
