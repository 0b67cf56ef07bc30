"""Find the checkpoint to resume from: the newest complete one with correct checksums.

Process 0 does this before the run starts. All processes then restore it and save new ones with `train.run.checkpoints`.
"""

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
from svdjax.errors import InputError, one_line
from train.steps.state import host_checksums

DAMAGED = "damaged"  # folder next to the checkpoints' folder, for damaged ones
READ_SIZE = 2**28  # bytes read from a checkpoint at a time


@dataclass(frozen=True, kw_only=True)
class CompleteCheckpoint:
    """A verified checkpoint.

    Attributes:
        step: number of steps done.
        facts: JSON values saved with it.
        notes: one line per damaged checkpoint that was moved out of the folder.
    """

    step: int
    facts: Mapping[str, Any]
    notes: list[str]


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first. Unfinished ones have other names."""
    with contextlib.suppress(OSError):
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    return []


def newest_complete(folder: Path, expected: Mapping[str, Any]) -> CompleteCheckpoint | None:
    """Find the newest complete checkpoint, and move damaged ones to `damaged` next to the folder. Only one process may call it.

    Of older checkpoints only the metrics are verified, because `Checkpoints` reads them.

    Args:
        folder: the folder of the checkpoints.
        expected: the arrays of a state by name, anything with `shape` and `dtype`.

    Returns:
        The checkpoint, or None if there is none.

    Raises:
        InputError: there are checkpoints, but none is complete (nothing is moved then), or a damaged one can't be moved.
    """
    damaged: dict[int, str] = {}
    steps = saved_steps(folder)
    for step in reversed(steps):
        try:
            facts = _verified_facts(folder / str(step), expected)
        except Exception as e:  # Orbax and TensorStore don't document the types of error for damaged data
            damaged[step] = one_line(e, 160)
            continue
        for older in (other for other in steps if other < step):
            try:
                _read_json(folder / str(older) / "metrics", "metrics")
            except Exception as e:
                damaged[older] = one_line(e, 160)
        notes = [_move_away(folder, other, reason) for other, reason in damaged.items()]
        return CompleteCheckpoint(step=step, facts=facts, notes=notes)
    if damaged:
        step, reason = next(iter(damaged.items()))
        raise InputError(f"{folder}: none of {len(damaged)} checkpoints can be read (step {step}: {reason})")
    return None


def newest_settings(folder: Path) -> tuple[int, dict[str, Any]]:
    """Step and settings of the newest checkpoint that has readable settings. Its arrays are not read.

    Raises:
        InputError: there is none.
    """
    steps = saved_steps(folder)
    reason = "it holds no checkpoint"
    for step in reversed(steps):
        try:
            with _silent_stderr():
                return step, dict(_read_json(folder / str(step) / "facts", "metadata")["settings"])
        except Exception as e:  # see `newest_complete`
            reason = f"none of {len(steps)} checkpoints can be read (step {step}: {one_line(e, 160)})"
    raise InputError(f"{folder}: {reason}; the settings in {folder.parent / 'run.json'} can't be read either")


def _verified_facts(path: Path, expected: Mapping[str, Any]) -> Mapping[str, Any]:
    """The facts of a checkpoint, after all of its data were read and compared with their checksums."""
    with _silent_stderr():
        facts = _read_json(path / "facts", "metadata")
        _read_json(path / "metrics", "metrics")
        sums = {name: host_checksums({name: value})[0] for name, value in stream_tree(path / "state", expected, READ_SIZE)}
    if [sums[name] for name in expected] != facts["checksums"]:
        raise InputError(f"{path}: its data don't match its checksums")
    return facts


def _read_json(path: Path, name: str) -> Mapping[str, Any]:
    # Orbax's annotation asks for the path type of etils, but any path works
    return ocp.JsonCheckpointHandler(name).restore(path, args=ocp.args.JsonRestore())  # pyright: ignore[reportArgumentType]


def _move_away(folder: Path, step: int, reason: str) -> str:
    """Move a damaged checkpoint to a new name in `damaged`; returns a note about it."""
    parent = folder.parent / DAMAGED
    try:
        parent.mkdir(exist_ok=True)
        names = (parent / (f"step-{step}-{i}" if i else f"step-{step}") for i in range(1000))
        target = next(path for path in names if not path.exists())
        (folder / str(step)).rename(target)
    except OSError as e:
        raise InputError(f"{folder / str(step)}: is damaged ({reason}), and can't be moved to {parent}: {e.strerror}") from None
    return f"the checkpoint of step {step} is damaged ({reason}): moved to {target}"


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard standard error: TensorStore's threads print read errors there, which are raised as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    stderr = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    except Exception:
        time.sleep(0.3)  # some threads print late
        raise
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
