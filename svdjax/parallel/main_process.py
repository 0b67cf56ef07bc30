"""Work done by process 0 only, checks on which all processes agree, and the exit of a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.runtime import cli
from svdjax.runtime.streams import flush_or_drop

Result = TypeVar("Result")
WAIT = 5.0  # seconds that a process waits after an error for the others to have one


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


def agreed(check: Callable[[], Result], facts: Callable[[Result], Mapping[str, str]]) -> Result:
    """Call `check` in every process, and return its result if all processes run the same program.

    Args:
        check: raises the process's user errors; must not wait for other processes.
        facts: what must be equal in all processes, by the name that messages give it.

    Raises:
        InputError: the user error of a process, or the first fact that differs, in every process.
    """
    if not jax.distributed.is_initialized():
        return check()
    result, error, own = None, None, None
    try:
        result = check()
        own = dict(facts(result))
    except Exception as e:
        if (error := cli.describe(e)) is None:
            raise
    found = cluster.gather_json((error, own))
    errors = [error for error, _ in found]
    if first := next(filter(None, errors), None):
        raise InputError(first if len(set(errors)) == 1 else f"process {errors.index(first)}: {first}")
    for name, value in found[0][1].items():
        for process, (_, other) in enumerate(found):
            if (given := other.get(name)) != value:
                values = f"{value} in process 0, {given} in process {process}"
                raise InputError(f"{name} is {values}: expected the same command in all processes")
    assert result is not None
    return result


def say(line: str) -> None:
    """Print a line in process 0 only."""
    if cluster.is_main():
        print(line, flush=True)


def leave(status: int) -> NoReturn:
    """End the process; after an error soon, because JAX would wait for the other processes, which may wait for this one.

    If all have the error, they disconnect first: otherwise the end of process 0 would abort those that are later.
    """
    if status and jax.distributed.is_initialized():
        flush_or_drop()
        disconnecting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        disconnecting.start()
        disconnecting.join(WAIT)
        os._exit(status)
    cli.leave(status)
