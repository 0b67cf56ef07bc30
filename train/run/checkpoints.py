"""Save the states of a run in the background, and restore one onto the devices: used by all processes during a run.

Before that, `train.run.complete_checkpoints` finds the checkpoint to restore and moves damaged ones out of the folder.
"""

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

from svdjax.checkpoints.orbax_calls import utf8_path
from svdjax.checkpoints.orbax_trees import stream_tree
from svdjax.errors import InputError, one_line
from train.run.complete_checkpoints import READ_SIZE, CompleteCheckpoint, saved_steps
from train.steps.state import State, checksums, from_arrays, to_arrays

STATE, FACTS = "state", "facts"  # the parts of a checkpoint


class Checkpoints:
    """A folder of checkpoints by step, each complete or absent: the latest ones and the best one are kept.

    A context manager; leaving it waits for the checkpoint that is being written. Incomplete checkpoints of killed runs are
    removed first.

    Args:
        folder: holds checkpoints of this run only; created if it doesn't exist.
        keep: number of latest checkpoints to keep, besides the one with the lowest loss.

    Raises:
        InputError: the folder can't be created.
    """

    def __init__(self, folder: Path, keep: int):
        # No log of Orbax's threads: every error that they log is raised too.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = folder
        # BestN keeps the last in ascending order; the best has the lowest loss.
        best = BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
            best_fn=lambda metrics: metrics["loss"],  # without it Orbax doesn't write the losses, which later processes need
            best_mode="min",
        )
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                # Not by Orbax: it removes them in a thread that outlives its manager, and the next manager's thread then fails.
                for incomplete in folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
                    shutil.rmtree(incomplete)
            self._link = contextlib.ExitStack()
            reachable = self._link.enter_context(utf8_path(folder))
            self._manager = ocp.CheckpointManager(reachable, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        with contextlib.suppress(Exception):  # don't hide the first error
            self._manager.close()
        self._link.close()

    def save(self, state: State, facts: Mapping[str, Any], loss: float) -> None:
        """Start to save a state; training may continue immediately.

        Args:
            state: after at least one step.
            facts: JSON values, stored with the state.
            loss: decides which checkpoint is the best.

        Raises:
            InputError: this checkpoint or the previous one can't be written.
        """
        step = int(state.step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(to_arrays(state)),
            facts=ocp.args.JsonSave({**facts, "checksums": checksums(state)}),
        )
        with self._writing():
            self._manager.save(step, args=items, metrics={"loss": loss}, force=True)

    def raise_errors(self) -> None:
        """Raise `InputError` if the checkpoint that is being written has failed; doesn't wait."""
        with self._writing():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait until everything is on disk; `InputError` if it can't be written."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def restore(self, checkpoint: CompleteCheckpoint, like: State) -> State:
        """Read a state onto the devices.

        Args:
            checkpoint: from `train.run.complete_checkpoints.newest_complete`.
            like: `jax.ShapeDtypeStruct`s with shardings; the mesh may differ from the one on which the state was saved.

        Raises:
            InputError: the data don't match their checksums.
        """
        expected = to_arrays(like)
        path = self.folder / str(checkpoint.step) / STATE
        # Read through the host, as in `newest_complete`: otherwise Orbax also needs its file of the saved shardings.
        placed = {
            name: jax.make_array_from_callback(value.shape, expected[name].sharding, value.__getitem__)
            for name, value in stream_tree(path, expected, READ_SIZE)
        }
        state = from_arrays(placed, like)
        if checksums(state) != checkpoint.facts["checksums"]:
            raise InputError(f"{path}: its data don't match its checksums, as read by {jax.process_count()} processes")
        return state

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as e:  # TensorStore raises ValueError, also for a full disk
            steps = saved_steps(self.folder)
            last = f"the checkpoint of step {steps[-1]} is complete; --resume continues" if steps else "there is no earlier one"
            reason = f"{type(e).__name__}: {one_line(e, 160)}"
            raise InputError(f"{self.folder}: a checkpoint can't be written ({reason}); {last}") from e
