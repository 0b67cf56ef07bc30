"""The loop of a run: batches in, steps done, metrics and checkpoints out; it knows nothing of what is trained."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from tqdm import tqdm

from svdjax.errors import InputError
from svdjax.parallel import cluster
from svdjax.parallel.main_process import say
from train.batches.loader import Batch
from train.run import loss_curve
from train.run.checkpoints import Checkpoints
from train.run.metrics import Metrics, Row
from train.run.stop import Stop
from train.run.tensorboard import Board
from train.steps.state import State

SMOOTHING = 50  # steps of the mean loss shown
DRAWN_EVERY = 30  # seconds between pictures of the loss curve, at least: each takes a third of a second


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Result:
    """What a step tells, the same on every device.

    Attributes:
        loss: mean over the batch, ().
        losses, sigma: of each clip, (b,).
        gradient_norm: before clipping, ().
        finite: whether the weights that the step led to are, ().
    """

    loss: Array
    losses: Array
    sigma: Array
    gradient_norm: Array
    finite: Array


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        update: the state and a batch's arrays, on the host -> the next state and what the step tells.
        export: writes what was trained to the run's folder.
        validate: makes something to look at from a state, or None.
        clip_name: the name of a clip of the whole batch, from step and row.
    """

    update: Callable[[State, Batch], tuple[State, Result]]
    export: Callable[[State], None]
    validate: Callable[[State], None] | None = None
    clip_name: Callable[[int, int], str] = "step {}, row {}".format


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what is done how often.

    Attributes:
        out: the run's folder.
        steps: in all, those before a resume included.
        batch_size: global.
        save_every, validate_every: steps; validation may be None.
        facts: kept with every checkpoint.
    """

    out: Path
    steps: int
    batch_size: int
    save_every: int
    validate_every: int | None
    facts: Mapping[str, Any]


def run(task: Task, plan: Plan, state: State, batches: Iterable[Batch], checkpoints: Checkpoints) -> State:
    """Train from `state` to the last step, or until the run is asked to stop. Either way the last state is saved.

    Raises:
        InputError: the loss, its gradient or the weights are not finite, something can't be written, or a clip can't be read
            any more. The last checkpoint is whole then.
        KeyboardInterrupt: at the end, if Ctrl-C asked to stop; or at once, if it was pressed twice.
    """
    done = int(state.step)
    with Stop() as stop:
        with _Log(plan, task, done) as log:
            if done < plan.steps:
                state = _steps(task, plan, state, batches, checkpoints, stop, log)
            checkpoints.wait()
            log.draw(last=True)  # again where a run was killed between its last checkpoint and its end
        step = int(state.step)
        if done == plan.steps:
            say(f"all {done} steps are done already")
        elif step < plan.steps:
            say(f"stopped after step {step} of {plan.steps}, which is saved: --resume goes on")
        task.export(state)
        cluster.barrier("exported")
    return state


def _steps(
    task: Task, plan: Plan, state: State, batches: Iterable[Batch], checkpoints: Checkpoints, stop: Stop, log: _Log
) -> State:
    """The steps of a run, from that after `state` on."""
    first = int(state.step) + 1
    with _bar(plan, first - 1) as bar:
        for batch in batches:
            if batch.step == first:
                bar.set_description_str("compiling the first step")
                state, result = task.update(state, batch)
                bar.set_description_str("training")
                bar.unpause()  # the time left is that of steps, not of compiling
                log.begin()
            else:
                state, result = task.update(state, batch)
            log.add(batch.step, result)
            last = stop.requested(batch.step) or batch.step == plan.steps
            saving = last or batch.step % plan.save_every == 0
            # The step before is read while this one runs; all are, before a state is saved that they led to.
            log.read(bar, waiting=0 if saving else 1)
            checkpoints.check()
            if saving:
                facts = {**plan.facts, "position": batch.step * plan.batch_size}
                checkpoints.save(state, facts, log.mean_since_save(batch.step))
                log.draw()
            if task.validate and plan.validate_every and batch.step % plan.validate_every == 0 and stop.signal is None:
                bar.clear()
                task.validate(state)
            if last:
                break
    return state


def _bar(plan: Plan, done: int) -> tqdm:
    seconds = 0.1 if sys.stderr.isatty() else 10  # between its changes, each of which is a line of a log
    return tqdm(
        total=plan.steps,
        initial=done,
        unit="step",
        file=sys.stderr,
        disable=not cluster.is_main(),
        smoothing=0.1,
        mininterval=seconds,
        maxinterval=seconds,
    )


class _Log:
    """The results of steps: read one step late, checked, written."""

    def __init__(self, plan: Plan, task: Task, done: int):
        self._plan, self._task = plan, task
        self._pending: deque[tuple[int, Result]] = deque()
        self._recent: deque[float] = deque(maxlen=SMOOTHING)
        self._since_save: list[float] = []
        self._metrics = Metrics(plan.out / "metrics.csv", done) if cluster.is_main() else None
        self._board = Board(plan.out / "tensorboard", done) if cluster.is_main() else None
        self._read = 0
        self._saved = done
        self._drawn = -math.inf
        self.begin()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._metrics:
            self._metrics.__exit__(*error)
        if self._board:
            self._board.close()

    def begin(self) -> None:
        """Count the rate from now on."""
        self._begun = time.monotonic()

    def add(self, step: int, result: Result) -> None:
        """What a step told, to be read later."""
        self._pending.append((step, result))

    def read(self, bar: tqdm, waiting: int) -> None:
        """Read results until `waiting` are left."""
        while len(self._pending) > waiting:
            step, result = self._pending.popleft()
            values = jax.device_get(result)
            self._check(step, values)
            row = Row(step, float(values.loss), float(values.gradient_norm), float(values.sigma.mean()))
            if self._metrics:
                self._metrics.add(row)
            self._read += 1
            rate = self._read * self._plan.batch_size / (time.monotonic() - self._begun)
            if self._board:
                self._board.add(row, rate)
            self._recent.append(row.loss)
            self._since_save.append(row.loss)
            bar.set_postfix_str(f"loss {np.mean(self._recent):.4f}, {rate:.3g} clips/s", refresh=False)
            bar.update()

    def mean_since_save(self, step: int) -> float:
        """Mean loss since this was last asked; all rows up to this step are on disk then, which is to be saved now."""
        if self._metrics:
            self._metrics.sync()
        self._saved = step
        mean = math.fsum(self._since_save) / len(self._since_save)
        self._since_save.clear()
        return mean

    def draw(self, *, last: bool = False) -> None:
        if self._metrics and (last or time.monotonic() > self._drawn + DRAWN_EVERY):
            self._drawn = time.monotonic()
            loss_curve.draw(self._metrics.rows, self._plan.out / "loss.png")

    def _check(self, step: int, values: Result) -> None:
        if np.isfinite(values.loss) and np.isfinite(values.gradient_norm) and values.finite:
            return
        bad = np.flatnonzero(~np.isfinite(values.losses))
        if bad.size:
            what = f"the loss is {values.losses[bad[0]]:g}"
        elif not np.isfinite(values.gradient_norm):
            what = f"the loss is {values.loss:g}, the norm of its gradient {values.gradient_norm:g}"
        else:
            what = f"the loss is {values.loss:g}, but the weights after the step are not finite"
        row = int(bad[0]) if bad.size else int(values.losses.argmax())
        which = "at" if bad.size or len(values.losses) == 1 else "its clips' highest at"
        if self._saved:
            left = f"the checkpoint of step {self._saved} is whole, and --resume --steps {self._saved} writes what it learnt"
        else:
            left = "no checkpoint was saved before it"
        name = self._task.clip_name(step, row)
        raise InputError(f"step {step}: {what}, {which} sigma {values.sigma[row]:.4g} of {name}: stopped; {left}")
