"""The training loop, independent of the network that is trained: steps, metrics, checkpoints, validation clips."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from svdjax.errors import InputError, one_line
from svdjax.parallel import cluster
from svdjax.parallel.main_process import say
from train.batches.loader import Batch
from train.run.checkpoints import Checkpoints
from train.run.result import Result
from train.run.run_log import RunLog
from train.run.stop import Stop
from train.steps.state import State


@dataclass(frozen=True, kw_only=True)
class Task:
    """The functions of one training task.

    Attributes:
        update: does one step: maps a state and a batch (on the host) to the next state and the step's result.
        export: writes the trained weights to the run's folder.
        validate: writes a validation clip of a state, or None.
        clip_name: maps a step and a row of the global batch to the name of the clip, for messages.
    """

    update: Callable[[State, Batch], tuple[State, Result]]
    export: Callable[[State], None]
    validate: Callable[[State], None] | None = None
    clip_name: Callable[[int, int], str] = "step {}, row {}".format


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Length of a run, and how often it saves and validates.

    Attributes:
        out: the run's folder.
        steps: total number of steps, including those before a resume.
        batch_size: clips per step, over all processes.
        save_every: number of steps between checkpoints.
        validate_every: number of steps between validation clips, or None.
        facts: JSON values, stored with every checkpoint.
    """

    out: Path
    steps: int
    batch_size: int
    save_every: int
    validate_every: int | None
    facts: Mapping[str, Any]

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is saved after a step that is not the last one."""
        return step % self.save_every == 0

    def validates(self, step: int) -> bool:
        """Whether a validation clip is written after a step."""
        return bool(self.validate_every) and step % self.validate_every == 0


def run(task: Task, plan: RunPlan, state: State, batches: Iterable[Batch], checkpoints: Checkpoints) -> State:
    """Train from `state` to the last step, or until a signal stops the run; in both cases save and export the last state.

    Raises:
        InputError: the loss, its gradient or the weights are not finite, a file can't be written, or a clip can't be read
            any more. The last checkpoint is then complete.
        KeyboardInterrupt: at the end after Ctrl-C, or immediately after a second Ctrl-C.
    """
    done = int(state.step)
    with Stop() as stop:
        with RunLog(plan.out, plan.batch_size, task.clip_name, done) as log:
            if done < plan.steps:
                state = _train(task, plan, state, batches, checkpoints, stop, log)
            checkpoints.wait()
            log.draw(final=True)  # also if the process was killed after the last checkpoint of the run
        step = int(state.step)
        if done == plan.steps:
            say(f"all {done} steps are done already")
        elif step < plan.steps:
            say(f"stopped after step {step} of {plan.steps}, which is saved: --resume continues")
        try:
            task.export(state)
        except (InputError, OSError) as e:
            left = f"the checkpoint of step {step} is complete: --resume writes it"
            raise InputError(f"{plan.out}: the result can't be written ({one_line(e, 200)}); {left}") from e
        cluster.barrier("exported")
    return state


def _train(
    task: Task, plan: RunPlan, state: State, batches: Iterable[Batch], checkpoints: Checkpoints, stop: Stop, log: RunLog
) -> State:
    """Do the steps after `state`, and return the last state."""
    first = int(state.step) + 1
    with _progress_bar(plan.steps, first - 1) as bar:
        for batch in batches:
            step = batch.step
            if step == first:
                state, result = _compile_and_update(task, state, batch, bar, log)
            else:
                state, result = task.update(state, batch)
            log.add(step, result)
            last = stop.requested(step) or step == plan.steps
            saving = last or plan.saves(step)
            # Results are read one step late, so that the device never waits. Before a save all results are checked.
            log.read(bar, leave=0 if saving else 1)
            checkpoints.raise_errors()
            if saving:
                facts = {**plan.facts, "position": step * plan.batch_size}
                checkpoints.save(state, facts, log.before_save(step))
                log.draw()
            if task.validate and plan.validates(step) and stop.signal is None:
                bar.clear()
                task.validate(state)
            if last:
                break
    return state


def _compile_and_update(task: Task, state: State, batch: Batch, bar: tqdm, log: RunLog) -> tuple[State, Result]:
    """The first step of a process, excluded from the measured rate and the estimated time."""
    bar.set_description_str("compiling the first step")
    state, result = task.update(state, batch)
    bar.set_description_str("training")
    bar.unpause()
    log.start_clock()
    return state, result


def _progress_bar(steps: int, done: int) -> tqdm:
    seconds = 0.1 if sys.stderr.isatty() else 10  # between updates; in a log file each update is a line
    return tqdm(
        total=steps,
        initial=done,
        unit="step",
        file=sys.stderr,
        disable=not cluster.is_main(),
        smoothing=0.1,
        mininterval=seconds,
        maxinterval=seconds,
    )
