"""The option `--memory` of the sampling and training commands."""

from __future__ import annotations

import argparse

from svdjax.devices import budget
from svdjax.devices.xla_options import spare_threads

OPTION = "--memory"


def add_memory(p: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--memory`, a number of GiB above 0, for `start`."""
    p.add_argument(
        OPTION,
        type=_gib,
        metavar="GIB",
        help="device memory that the run may use; work that doesn't fit is done in parts, or its data is kept in host memory; "
        "the plan is printed first (default: what the device has; on a CPU no plan is made)",
    )


def take_share(memory: float | None) -> None:
    """Prepare JAX before its backend starts: its share of a GPU, see `budget.take_share`; threads for simulated devices."""
    budget.take_share(memory)
    spare_threads()


def start(memory: float | None) -> int | None:
    """The budget of a run in bytes, see `budget.budget_bytes`. Starts JAX's backend; call `take_share` before.

    Args:
        memory: value of the option.

    Raises:
        InputError: more than the device has.
    """
    return budget.budget_bytes(memory, OPTION)


def _gib(text: str) -> float:
    try:
        return budget.memory_in_gib(float(text))
    except ValueError:  # also an `InputError`
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a number of GiB above 0") from None
