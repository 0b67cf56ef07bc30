"""What the processes of a run leave to the first of them, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.runtime import cli


def on_main(work: Callable[[], Any]) -> Any:
    """`work()` of process 0, anything that JSON can hold, in every process; so is an `InputError` that it raises."""
    told: dict[str, Any] = {}
    if cluster.is_main():
        try:
            told["value"] = work()
        except InputError as e:
            told["error"] = str(e)
    told = cluster.broadcast_json(told)
    if "error" in told:
        raise InputError(told["error"])
    return told["value"]


def say(line: str) -> None:
    """Print a line, once in all."""
    if cluster.is_main():
        print(line, flush=True)


def leave(status: int) -> NoReturn:
    """End the process; at once after an error, if there are others: JAX would wait for them, who wait for this one."""
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    cli.leave(status)
