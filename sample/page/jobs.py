"""The page's work: one job at a time in one thread, which owns the model; further jobs wait in order."""

from __future__ import annotations

import dataclasses
import threading
import time
import traceback
from collections import deque
from pathlib import Path

import jax
import numpy as np

from sample import console
from sample.batches import clip
from sample.batches.request import InterpolationRequest
from sample.page import preview
from sample.page.models import Models
from sample.page.pace import Pace
from sample.page.shown import Shown
from svdjax.errors import InputError, one_line
from svdjax.runtime import cli

MOST_WAITING = 20
WAITING, LOADING, SAMPLING, WRITING = "waiting", "loading", "sampling", "writing"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ENDED = DONE, FAILED, CANCELLED


class Cancelled(Exception):
    """Raised in the sampler's callbacks to end a run."""


class Job:
    """A video to make. The page's tab reads its attributes while the thread of `Jobs` changes them.

    Attributes:
        request: the checked options.
        folder: for its files, which exist once the state is `DONE`.
        state: one of the constants above.
        error: the line to show if the state is `FAILED`.
        done, total: UNet evaluations.
        started: `time.monotonic()` at the start of the work.
        seconds: that the work took, at its end.
        frames: the preview, uint8 (f, h, w, 3); None before the first.
        warnings: lines on keyframes that are too different.
    """

    def __init__(self, request: InterpolationRequest, folder: Path):
        self.request = request
        self.folder = folder
        self.state = WAITING
        self.error = ""
        self.done, self.total = 0, 0
        self.started = self.seconds = 0.0
        self.frames: np.ndarray | None = None
        self.warnings: list[str] = []
        self._first: tuple[float, int] | None = None  # time and evaluations of the first report, after compilation
        self._pace: float | None = None  # seconds per evaluation since then
        self._stop = threading.Event()

    def cancel(self) -> None:
        """End the job: at once if it waits, otherwise after the running UNet evaluation."""
        self._stop.set()
        if self.state == WAITING:
            self.state = CANCELLED

    @property
    def cancelling(self) -> bool:
        """Whether `cancel` was called."""
        return self._stop.is_set()

    def seconds_left(self) -> float | None:
        """Of the sampling, from the evaluations after the first report; None while that isn't known."""
        return None if self._pace is None else self._pace * (self.total - self.done)

    def make(self, models: Models, pace: Pace) -> None:
        """Do the work and set the state at its end."""
        self.started = time.monotonic()
        try:
            self._check()
            self._make(models, pace)
            self.seconds = time.monotonic() - self.started
            self.state = DONE
        except Cancelled:
            self.state = CANCELLED
        except Exception as e:
            line = cli.describe(e)
            self.error = line or f"{type(e).__name__}: {one_line(e, 300)} (a fault of the program; the terminal has more)"
            self.state = FAILED
            if line is None:
                traceback.print_exc()

    def _make(self, models: Models, pace: Pace) -> None:
        request = self.request
        with console.one_line_errors("no video was made"):
            self.state = LOADING
            model, plan = models.get(request)
            self._check()
            ends = request.keyframes[0], request.keyframes[1]
            weights = preview.map_of(model, *ends, request.settings, request.method, plan)
            self.state = SAMPLING
            shown = Shown(lambda latents: preview.frames_of(latents, weights), request.clips)

            def show(latents: jax.Array) -> None:
                number = self.done * request.clips // max(self.total, 1)
                shown.estimate(number - number % len(latents), latents)  # on several devices, some clips are sampled together

            def report(done: int, total: int) -> None:
                shown.update(at_once=done == total)
                self.frames = shown.frames
                self._report(done, total)

            movie, latents = clip.generate(request, model, plan, report, show, self.warnings.append)
        self._check()
        if self._pace is not None:
            pace.record(request.model.config, request.keyframes[0].shape, request.method, request.settings, self._pace)
        metadata = request.metadata | ({} if plan is None else plan.as_text())
        clip.write(dataclasses.replace(request, metadata=metadata), movie, latents, self.started)

    def _report(self, done: int, total: int) -> None:
        """Progress of the sampler."""
        self._check()
        self.done, self.total = done, total
        now = time.monotonic()
        self._first = self._first or (now, done)
        self._pace = (now - self._first[0]) / (done - self._first[1]) if done > self._first[1] else None
        self.state = WRITING if done == total else SAMPLING

    def _check(self) -> None:
        if self.cancelling:
            raise Cancelled


class Jobs:
    """The queue and its thread.

    Args:
        memory: see `Models`.
    """

    def __init__(self, memory: float | None = None):
        self.pace = Pace()
        self._models = Models(memory)
        self._queue: deque[Job] = deque()  # the first is being made
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Add a job.

        Raises:
            InputError: too many are waiting.
        """
        with self._changed:
            if self._before(None) > MOST_WAITING:
                raise InputError(f"{MOST_WAITING} videos are waiting already: try again later")
            self._queue.append(job)
            self._changed.notify()

    def before(self, job: Job) -> int:
        """Number of jobs before a waiting job."""
        with self._changed:
            return self._before(job)

    def _before(self, job: Job | None) -> int:
        before = 0
        for other in self._queue:
            if other is job:
                break
            before += other.state not in ENDED
        return before

    def running(self) -> Job | None:
        """The job that is being made."""
        with self._changed:
            return self._queue[0] if self._queue else None

    def close(self, seconds: float = 10) -> None:
        """Cancel all jobs and wait for the thread, at most some seconds."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.cancel()
            self._changed.notify()
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                job = self._queue[0]
            if job.state not in ENDED:
                job.make(self._models, self.pace)
            with self._changed:
                self._queue.popleft()
