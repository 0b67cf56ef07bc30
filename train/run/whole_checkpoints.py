"""Which checkpoint of a run to go on from: the newest that holds, bit for bit, what was saved."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from svdjax.checkpoints.orbax_trees import stream_tree
from svdjax.errors import InputError
from train.steps.state import host_checksums

DAMAGED = "damaged"  # beside the checkpoints: where those go that can't be used
AT_ONCE = 2**28  # bytes that are read together


@dataclass(frozen=True)
class Whole:
    """A checkpoint that was found to be whole.

    Attributes:
        step: its number.
        facts: saved with it.
        notes: a line about each one that was moved aside.
    """

    step: int
    facts: dict[str, Any]
    notes: list[str]


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first. Those that are being written have other names."""
    with contextlib.suppress(OSError):
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    return []


def newest(folder: Path, expected: Mapping[str, Any]) -> Whole | None:
    """Find the newest whole checkpoint, by one process alone; damaged ones are moved beside the folder.

    Older ones are looked into only as far as a later `Checkpoints` needs them.

    Args:
        folder: with the checkpoints.
        expected: the arrays of a state by name, anything with `shape` and `dtype`.

    Returns:
        It, or None where there is no checkpoint.

    Raises:
        InputError: there are checkpoints, and none is whole. They are left where they are then.
    """
    failed: dict[int, str] = {}
    for step in reversed(saved_steps(folder)):
        try:
            facts = _verified(folder / str(step), expected)
        except Exception as e:  # Orbax and TensorStore name no type of error for damaged data
            failed[step] = " ".join(str(e).split())[:160]
            continue
        for older in saved_steps(folder):  # whose losses Orbax needs
            try:
                _json(folder / str(older) / "metrics", "metrics")
            except Exception as e:
                failed.setdefault(older, " ".join(str(e).split())[:160])
        return Whole(step, facts, [_set_aside(folder, bad, why) for bad, why in failed.items()])
    if failed:
        step, why = next(iter(failed.items()))
        raise InputError(f"{folder}: none of {len(failed)} checkpoints can be read, such as that of step {step} ({why})")
    return None


def _verified(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint, all of whose data was read and found to be right."""
    with _standard_error_unheard():
        facts = _json(path / "facts", "metadata")
        _json(path / "metrics", "metrics")
        sums = {name: host_checksums({name: value})[0] for name, value in stream_tree(path / "state", expected, AT_ONCE)}
    if [sums[name] for name in expected] != facts["checksums"]:
        raise InputError(f"{path}: its data is not what was saved")
    return facts


def _json(path: Path, name: str) -> dict[str, Any]:
    return ocp.JsonCheckpointHandler(name).restore(path, args=ocp.args.JsonRestore())


def _set_aside(folder: Path, step: int, why: str) -> str:
    aside = folder.parent / DAMAGED
    try:
        aside.mkdir(exist_ok=True)
        numbers = (aside / f"step-{step}{'-' * bool(i)}{i or ''}" for i in range(1000))
        place = next(path for path in numbers if not path.exists())
        (folder / str(step)).rename(place)
    except OSError as e:
        raise InputError(f"{folder / str(step)}: is damaged ({why}), and can't be moved to {aside}: {e.strerror}") from None
    return f"the checkpoint of step {step} is damaged ({why}): moved to {place}"


@contextlib.contextmanager
def _standard_error_unheard() -> Iterator[None]:
    """TensorStore's threads report what they can't read on standard error, some of it late; the error is raised as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    except Exception:
        time.sleep(0.3)
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
