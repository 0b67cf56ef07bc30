"""The report: run the parts in order within the time limit, and write the files after every result."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sample.gpu_report import markdown, process
from sample.gpu_report.channel import Request
from sample.gpu_report.failures import not_installed
from sample.gpu_report.options import ReportOptions, resolve
from sample.gpu_report.parts import PARTS, PROBE, Part
from sample.gpu_report.results import PartResult, Results
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file

SLACK = 3.0  # a part may take this times its expected duration
SHORTEST = 120.0  # but always this many seconds, if they are left
FASTEST, SLOWEST = 0.4, 5.0  # bounds of the measured durations, relative to the expected ones
REPEAT = 20.0  # seconds between two lines of progress during one task


class Clock:
    """The time of a report.

    Args:
        limit: seconds.
    """

    def __init__(self, limit: float):
        self._started, self._limit = time.monotonic(), limit
        self._expected = self._taken = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        return self._limit - self.elapsed

    def finished(self, expected: float, taken: float) -> None:
        """A part that was expected to take `expected` seconds has taken `taken`."""
        self._expected += expected
        self._taken += taken

    @property
    def pace(self) -> float:
        """Measured durations relative to the expected ones so far."""
        return min(max(self._taken / self._expected, FASTEST), SLOWEST) if self._expected else 1.0

    def show(self, title: str, task: str) -> None:
        """One line of progress on standard error."""
        elapsed, left = (f"{int(x) // 60}:{int(x) % 60:02d}" for x in (self.elapsed, max(self.left, 0)))
        print(f"[{elapsed}, {left} left] {title}: {task}", file=sys.stderr, flush=True)


def make(options: ReportOptions) -> None:
    """Make the report.

    Raises:
        InputError: JAX can't start, or the files can't be written.
        KeyboardInterrupt: Ctrl-C or the end of a batch job; the files hold what was measured before.
    """
    clock = Clock(60 * options.minutes)
    named = {part.name: part for part in PARTS}
    parts = tuple(named[name] for name in options.parts or named)
    options.folder.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="svdjax-report-") as scratch,
        (options.folder / "log.txt").open("w", encoding="utf-8") as log,
        _interrupted_by_the_system(),
    ):
        request, setup = _begin(options, clock, Path(scratch), log)
        results = Results(setup=setup)
        try:
            for part in parts:
                results.parts[part.name] = PartResult(title=part.title, expected_seconds=part.seconds(request.gpu) * clock.pace)
                _measure(part, request, results, clock, options.folder, Path(scratch), log)
        except KeyboardInterrupt:
            for part in parts:
                result = results.parts.setdefault(part.name, PartResult(title=part.title, status="skipped"))
                if result.status in ("running", "skipped") and not result.notes:
                    result.status = "stopped" if result.status == "running" else "skipped"
                    result.notes.append("the report was interrupted")
            write(options.folder, results)
            print(f"{options.folder}: holds what was measured before the interrupt", file=sys.stderr)
            raise
    print(markdown.render(results))
    print(f"wrote {options.folder / 'report.json'} and {options.folder / 'report.md'} after {clock.elapsed / 60:.1f} minutes")


def _begin(options: ReportOptions, clock: Clock, scratch: Path, log: TextIO) -> tuple[Request, dict[str, Any]]:
    """Query the device; return the request for all parts, and the description of the report."""
    found: dict[str, Any] = {}
    request = Request(
        config=SVDConfig(),
        model="",
        size=(0, 0),
        num_frames=0,
        dtype="",
        repeats=options.repeats,
        gpu=False,
        memory_bytes=None,
        folder=str(options.folder.absolute()),
    )
    clock.show(PROBE.title, "starting JAX")
    error = process.run(
        PROBE, request, clock.left, scratch, log, lambda kind, value: found.update(value if kind == "results" else {})
    )
    if not found:
        raise InputError(f"--gpu-report: JAX can't use a device: {error or 'no answer'}")
    gpu = found["platform"] == "gpu"
    chosen = resolve(options, gpu)
    request = dataclasses.replace(request, gpu=gpu, memory_bytes=found["memory_bytes"], **chosen)
    width, height = request.size
    clip = {"model": request.model, "width": width, "height": height, "num_frames": request.num_frames, "dtype": request.dtype}
    return request, {**found, **clip, "time_limit_minutes": options.minutes}


def _measure(part: Part, request: Request, results: Results, clock: Clock, folder: Path, scratch: Path, log: TextIO) -> None:
    """Run a part, or skip it with a reason, and write the files."""
    result = results.parts[part.name]
    lacking, expected = not_installed(part.packages), result.expected_seconds
    if lacking:
        result.status = "skipped"
        result.notes.append(lacking)
    elif part.gpu_only and not request.gpu:
        result.status = "skipped"
        result.notes.append("needs a GPU")
    elif expected > clock.left:
        result.status = "skipped"
        result.notes.append(f"expected to take {expected:.0f} s, {max(clock.left, 0):.0f} s were left: --time-limit gives more")
    if result.status == "skipped":
        clock.show(part.title, f"skipped, {result.notes[-1]}")
        write(folder, results)
        return
    result.status = "running"
    task, shown = "starting", clock.elapsed
    clock.show(part.title, task)

    def on_message(kind: str, value: Any) -> None:
        nonlocal task, shown
        if kind == "results":
            result.results.update(value)
        elif kind == "note":
            result.notes.append(value)
        elif kind == "progress":
            task = value
        if kind in ("results", "note"):
            write(folder, results)
        if kind == "progress" or clock.elapsed - shown >= REPEAT:
            shown = clock.elapsed
            clock.show(part.title, task)

    started = clock.elapsed
    error = process.run(part, request, min(clock.left, max(SLACK * expected, SHORTEST)), scratch, log, on_message)
    result.seconds = clock.elapsed - started
    result.status = "done"
    if error is not None:
        result.status = "ended" if error.startswith(process.AT_LIMIT) else "failed"
        result.notes.append(error)
        clock.show(part.title, error)
    else:
        clock.finished(part.seconds(request.gpu), result.seconds)
    write(folder, results)


def write(folder: Path, results: Results) -> None:
    """Write or replace both files, each complete or not at all."""
    values = json.dumps(results.to_json(), indent=2) + "\n"
    for name, text in (("report.json", values), ("report.md", markdown.render(results) + "\n")):
        with new_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _interrupted_by_the_system() -> Iterator[None]:
    """Within the block, SIGTERM, with which batch systems end a job, acts like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
