"""The log of a run: checks results, shows them, and writes them to metrics.csv, TensorBoard and loss.png."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from svdjax.parallel import cluster
from svdjax.parallel.main_process import say
from train.run import loss_curve
from train.run.metrics import Metrics
from train.run.metrics_table import StepMetrics
from train.run.result import Result, check_finite
from train.run.run_folder import METRICS
from train.run.side_files import SideFiles
from train.run.tensorboard import TensorBoardWriter

SMOOTHING = 50  # number of steps averaged for the loss on the progress bar
DRAW_INTERVAL = 30  # minimum seconds between drawings of the loss curve; a drawing takes 0.3 seconds


class RunLog:
    """Reads results and, on process 0, writes them to files; the other processes only check them. A context manager.

    Args:
        out: the run's folder.
        batch_size: clips per step, over all processes.
        clip_name: maps a step and a row of the batch to the name of the clip.
        done: number of steps done before this process started.
    """

    def __init__(self, out: Path, batch_size: int, clip_name: Callable[[int, int], str], done: int):
        self._out, self._batch_size, self._clip_name = out, batch_size, clip_name
        self._unread: deque[tuple[int, Result]] = deque()
        self._recent_losses: deque[float] = deque(maxlen=SMOOTHING)
        self._losses_since_save: list[float] = []
        self._side_files = SideFiles()
        self._metrics = Metrics(out / METRICS, done) if cluster.is_main() else None
        if self._metrics and self._metrics.note:
            say(self._metrics.note)
        self._tensorboard = TensorBoardWriter(out / "tensorboard", done, self._side_files) if cluster.is_main() else None
        self._steps_read = 0
        self._last_saved = done
        self._last_drawn = -math.inf
        self.start_clock()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics:
            self._metrics.close()
        if self._tensorboard:
            self._tensorboard.close()

    def start_clock(self) -> None:
        """Measure clips per second from now on."""
        self._started = time.monotonic()

    def add(self, step: int, result: Result) -> None:
        """Keep the result of a step; `read` reads it later."""
        self._unread.append((step, result))

    def read(self, bar: tqdm, leave: int) -> None:
        """Read results until only `leave` are unread; waits for their steps.

        Raises:
            InputError: a result is not finite, or `metrics.csv` can't be written.
        """
        while len(self._unread) > leave:
            step, result = self._unread.popleft()
            values = jax.device_get(result)
            check_finite(step, values, self._clip_name, self._last_saved)
            self._write(
                StepMetrics(
                    step=step,
                    loss=float(values.loss),
                    gradient_norm=float(values.gradient_norm),
                    sigma=float(values.sigma.mean()),
                ),
                bar,
            )

    def _write(self, row: StepMetrics, bar: tqdm) -> None:
        if self._metrics:
            self._metrics.add(row)
        self._steps_read += 1
        rate = self._steps_read * self._batch_size / (time.monotonic() - self._started)
        if self._tensorboard:
            self._tensorboard.add(row, rate)
        self._recent_losses.append(row.loss)
        self._losses_since_save.append(row.loss)
        bar.set_postfix_str(f"loss {np.mean(self._recent_losses):.4f}, {rate:.3g} clips/s", refresh=False)
        bar.update()

    def before_save(self, step: int) -> float:
        """Make sure that the metrics of all steps up to `step` are on disk; returns the mean loss since the last save."""
        if self._metrics:
            self._metrics.sync()
        self._last_saved = step
        mean = math.fsum(self._losses_since_save) / len(self._losses_since_save)
        self._losses_since_save.clear()
        return mean

    def draw(self, *, final: bool = False) -> None:
        """Draw the loss curve; if not `final`, at most every `DRAW_INTERVAL` seconds."""
        if self._metrics and self._metrics.rows and (final or time.monotonic() > self._last_drawn + DRAW_INTERVAL):
            self._last_drawn = time.monotonic()
            path = self._out / "loss.png"
            with self._side_files.or_warn(path):
                loss_curve.draw(self._metrics.rows, path)
