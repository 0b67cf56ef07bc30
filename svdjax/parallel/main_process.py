"""Work done by process 0 only, and the exit of a process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.runtime import cli
from svdjax.runtime.streams import flush_or_drop


def on_main(work: Callable[[], Any]) -> Any:
    """Call `work` in process 0, and return its result, or raise its user error as an `InputError`, in every process.

    Args:
        work: returns a value that is serializable as JSON.
    """
    outcome: dict[str, Any] = {}
    if cluster.is_main():
        try:
            outcome["value"] = work()
        except Exception as e:
            if (message := cli.describe(e)) is None:
                raise
            outcome["error"] = message
    outcome = cluster.broadcast_json(outcome)
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome["value"]


def say(line: str) -> None:
    """Print a line in process 0 only."""
    if cluster.is_main():
        print(line, flush=True)


def leave(status: int) -> NoReturn:
    """End the process; after an error immediately, because JAX would wait for the other processes, which wait for this one."""
    if status and jax.distributed.is_initialized():
        flush_or_drop()
        os._exit(status)
    cli.leave(status)
