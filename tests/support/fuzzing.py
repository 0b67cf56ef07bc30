"""Fuzzing: trials with time limits, and the judge of what a function or a command makes of damaged input.

Accepted are a correct result, or one line of error: `InputError` of a function, `error: ...` and status 2 of a command.
All else is a failure: another exception, a warning, other text on standard error, files left behind, or more time than
`LONGEST`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from svdjax.errors import InputError, one_line

SEED = int(os.environ.get("SVDJAX_FUZZ_SEED", "0"))
MINUTES = float(os.environ.get("SVDJAX_FUZZ_MINUTES", "10"))  # of the long form
LONGEST = 20.0  # seconds for one trial
LEAVING = 90.0  # seconds after which the process ends, if a library can't be interrupted
_SHOWN = os.dup(2)  # standard error, also while it is redirected


class TooLong(BaseException):
    """A trial took longer than `LONGEST`; no `except Exception` catches it."""


@dataclass(frozen=True)
class Subject:
    """Something to be damaged.

    Attributes:
        damage: strategy of the damaged input.
        trial: called with it; raises an exception if the outcome is not acceptable.
        quick: number of trials of the short form.
    """

    damage: st.SearchStrategy[Any]
    trial: Callable[[Any], object]
    quick: int


def run(subject: Subject, trials: int, seed: int) -> int:
    """Try a subject; returns the number of trials. A failing trial is made as small as possible, then its exception raised."""
    done = 0

    def trial(damaged: Any) -> None:
        nonlocal done
        done += 1
        with limited():
            subject.trial(damaged)

    options = hypothesis.settings(
        max_examples=trials, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    hypothesis.seed(seed)(options(hypothesis.given(subject.damage)(trial)))()
    return done


def run_long(subjects: Mapping[str, Subject], minutes: float, seed: int) -> tuple[dict[str, int], dict[str, Exception]]:
    """Try all subjects in turn until the time is over; a subject that failed is not tried again.

    Returns:
        Trials and failures by subject.
    """
    end = time.monotonic() + 60 * minutes
    trials = dict.fromkeys(subjects, 0)
    failures: dict[str, Exception] = {}
    turn = 0
    while time.monotonic() < end and len(failures) < len(subjects):
        turn += 1
        for name, subject in subjects.items():
            if name in failures or time.monotonic() > end:
                continue
            try:
                trials[name] += run(subject, subject.quick, seed + turn)
            except Exception as e:
                failures[name] = e
    return trials, failures


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `TooLong` in a block that takes longer than `LONGEST`."""

    def stop(number: int, frame: Any) -> None:
        raise TooLong(f"not done after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    faulthandler.dump_traceback_later(LEAVING, exit=True, file=_SHOWN)
    try:
        yield
    except TooLong as e:
        raise AssertionError(str(e)) from e
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def silent(folder: Path | None = None) -> Iterator[None]:
    """A block that must print nothing on standard error, warn of nothing, and leave the files of `folder` as they were."""
    before = None if folder is None else files(folder)
    with warnings.catch_warnings(record=True) as warned, _standard_error() as written:
        warnings.simplefilter("always")
        yield
    shown = [str(w.message) for w in warned if not issubclass(w.category, (DeprecationWarning, PendingDeprecationWarning))]
    assert not shown, f"warnings: {shown}"
    assert not written, f"on standard error: {written[0]}"
    assert folder is None or files(folder) == before, "files were left behind"


def answer(function: Callable[..., Any], *args: Any, folder: Path | None = None) -> Any:
    """The result of a function; None if it raised `InputError` with a message of one line that can be shown."""
    with silent(folder):
        try:
            return function(*args)
        except InputError as e:
            message = str(e)
            assert message.strip(), "an empty message"
            assert "\n" not in message, f"a message of many lines: {message[:500]}"
            assert len(message) < 2000, f"a long message: {message[:500]}"
            one_line(e).encode()
            return None


def command_status(main: Callable[[list[str]], int], argv: list[str]) -> int:
    """The status of a command, after checks of what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with silent(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    lines = err.getvalue().splitlines()
    if status == 2:
        assert len([line for line in lines if line.startswith("error: ")]) == 1 == len(lines), lines
        lines[0].encode()
    else:
        assert status == 0, status
        assert all(line.startswith("note: ") for line in lines), lines
    return status


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """What is written on standard error in the block, by Python or by libraries in C; known after the block."""
    written: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stderr(io.StringIO()) as text:
                yield written
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        if found := text.getvalue() + file.read().decode(errors="replace"):
            written.append(found[:2000])


def files(folder: Path) -> list[str]:
    """The paths of everything in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
