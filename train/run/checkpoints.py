"""The states of a run on disk: written in the background, whole or not at all, the last ones and the best kept."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from svdjax.checkpoints.orbax_trees import stream_tree
from svdjax.errors import InputError
from train.run.whole_checkpoints import AT_ONCE, Whole, saved_steps
from train.steps.state import State, checksums, from_arrays, to_arrays

STATE, FACTS = "state", "facts"  # the parts of a checkpoint


class Checkpoints:
    """A folder of checkpoints, by step. A context manager: leaving it waits for what is being written.

    What killed runs left half-written is removed, in the background, before anything new is written. Damaged checkpoints must
    not be in the folder any more (`train.run.whole_checkpoints`).

    Args:
        folder: made if it doesn't exist; of this run alone.
        keep: how many of the latest are kept, besides the one of the lowest loss.

    Raises:
        InputError: the folder can't be made.
    """

    def __init__(self, folder: Path, keep: int):
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax's log lines, also of its threads; errors are raised too
        self.folder = folder
        # The lowest loss: the policy keeps the last of an ascending order.
        best = BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            best_fn=lambda metrics: metrics["loss"],  # for their being written at all, for later processes
            best_mode="min",
            cleanup_tmp_directories=True,
        )
        with self._writing():
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        with contextlib.suppress(Exception):  # after an error, that error is what counts
            self._manager.close()

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
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(to_arrays(state)),
            facts=ocp.args.JsonSave({**facts, "checksums": checksums(state)}),
        )
        with self._writing():
            self._manager.save(step, args=items, metrics={"loss": loss}, force=True)

    def check(self) -> None:
        """Say at once if what is being written failed; errors as of `save`."""
        with self._writing():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait until everything is on disk; errors as of `save`."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(self, whole: Whole, like: State) -> State:
        """Read a state onto the devices.

        Args:
            whole: which, from `train.run.whole_checkpoints.newest`.
            like: `jax.ShapeDtypeStruct`s with shardings, which may be another mesh's than the state was saved on.

        Raises:
            InputError: it can't be read, or not as it was saved.
        """
        expected = to_arrays(like)
        path = self.folder / str(whole.step) / STATE
        # Through the host, as `newest` read it: Orbax otherwise needs the file of the shardings that it was saved with, too.
        placed = {
            name: jax.make_array_from_callback(value.shape, expected[name].sharding, value.__getitem__)
            for name, value in stream_tree(path, expected, AT_ONCE)
        }
        state = from_arrays(placed, like)
        if checksums(state) != whole.facts["checksums"]:
            raise InputError(f"{path}: its data is not what was saved, as read by {jax.process_count()} processes")
        return state

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as e:  # TensorStore raises ValueError, also for a full disk
            steps = saved_steps(self.folder)
            left = f"that of step {steps[-1]} is whole, --resume goes on from it" if steps else "there is no older one"
            raise InputError(f"{self.folder}: a checkpoint can't be written ({_brief(e)}); {left}") from e


def _brief(e: BaseException) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
