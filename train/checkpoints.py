"""The states of a run on disk: written in the background, whole or not at all, the last ones and the best kept."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from svdjax.errors import InputError
from train import hosts
from train.state import State, checksums, from_arrays, to_arrays


class Checkpoints:
    """A folder of checkpoints, by step. A context manager: leaving it waits for what is being written.

    Args:
        folder: made if it doesn't exist; of this run alone.
        keep: how many of the latest are kept, besides the one of the lowest loss.
    """

    def __init__(self, folder: Path, keep: int):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax's log lines, also of its threads
        self.folder = folder
        # The lowest loss: the policy keeps the last of an ascending order.
        best = BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]), cleanup_tmp_directories=True
        )
        with self._writing("begin"):
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        with contextlib.suppress(Exception):  # after an error, that error is what counts
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, facts: Mapping[str, Any], loss: float) -> None:
        """Begin to save a state; training may go on at once.

        Args:
            state: of at least one step.
            facts: anything that JSON can hold, given back with the state.
            loss: by which the best checkpoint is found.

        Raises:
            InputError: this one, or the one before, can't be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(to_arrays(state)),
            facts=ocp.args.JsonSave({**facts, "checksums": checksums(state)}),
        )
        with self._writing(step):
            self._manager.save(step, args=items, metrics={"loss": loss}, force=True)

    def wait(self) -> None:
        """Wait until everything is on disk; errors as of `save`."""
        with self._writing("the last"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(self, like: State) -> tuple[State, dict[str, Any], list[str]] | None:
        """The newest whole state.

        Args:
            like: `jax.ShapeDtypeStruct`s with shardings, which may be another mesh's than the state was saved on.

        Returns:
            The state, its facts, and a line about each newer checkpoint that was passed over because it is damaged; it is
            moved aside. None where there is no checkpoint.

        Raises:
            InputError: there are checkpoints, and none is whole.
        """
        notes = []
        for step in reversed(self.steps()):
            try:
                items = self._manager.restore(
                    step,
                    args=ocp.args.Composite(state=ocp.args.StandardRestore(to_arrays(like)), facts=ocp.args.JsonRestore()),
                )
                state, facts = from_arrays(items["state"], like), items["facts"]
                if facts["checksums"] != checksums(state):
                    raise ValueError("its data is not what was saved")
            except Exception as e:  # Orbax and TensorStore name no type of error for damaged data
                self._set_aside(step)
                notes.append(f"the checkpoint of step {step} is damaged and was moved aside ({_brief(e)})")
                continue
            return state, facts, notes
        if notes:
            raise InputError(f"{self.folder}: no checkpoint can be read: {'; '.join(notes)}")
        return None

    def _set_aside(self, step: int) -> None:
        if hosts.is_main():
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        hosts.barrier(f"damaged-{step}")
        self._manager.reload()

    @contextlib.contextmanager
    def _writing(self, what: int | str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, jax.errors.JaxRuntimeError, RuntimeError) as e:
            whole = self._whole()
            left = f"the last whole one is of step {whole[-1]}, --resume goes on from it" if whole else "there is no older one"
            raise InputError(f"{self.folder}: checkpoint {what} can't be written ({_brief(e)}); {left}") from e

    def _whole(self) -> list[int]:
        with contextlib.suppress(OSError):
            return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        return []


def _brief(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
