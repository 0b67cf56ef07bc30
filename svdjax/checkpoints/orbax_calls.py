"""Orbax calls: imported on use, without log lines, without other processes, and not interrupted halfway by Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from svdjax.errors import InputError, one_line


@contextlib.contextmanager
def orbax() -> Iterator[Any]:
    """Orbax without its log lines on standard error; Ctrl-C takes effect at the end of the block."""
    import orbax.checkpoint as ocp

    _drop_late_errors()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # errors are raised as well
    try:
        with _delayed_interrupt():
            yield ocp
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Orbax and a checkpointer; any error of reading becomes an `InputError` of one line."""
    with orbax() as ocp:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=this_process_alone(ocp))
        try:
            with ocp.Checkpointer(handler, multiprocessing_options=this_process_alone(ocp)) as checkpointer:
                yield ocp, checkpointer
        except InputError:
            raise
        except Exception as e:  # Orbax and TensorStore don't document the types of error for damaged data
            if _interrupted(e):
                raise KeyboardInterrupt from e
            raise InputError(f"{path}: can't be read: {type(e).__name__}: {one_line(e, 200)}") from e


@functools.cache
def _drop_late_errors() -> None:
    """Drop what Python would print, at any later time, about reads that have failed: the exception was raised already.

    Threads of TensorStore report to event loops that are closed by then, and coroutines of Orbax end with another exception.
    """
    before = sys.unraisablehook

    def report(error: Any) -> None:
        code = getattr(error.object, "cr_code", None)
        if str(error.exc_value) != "Event loop is closed" and (code is None or "orbax" not in code.co_filename):
            before(error)

    sys.unraisablehook = report
    logging.getLogger("asyncio").addFilter(lambda record: not _is_late(record))


def _is_late(record: logging.LogRecord) -> bool:
    """Whether a record of asyncio is about a read of TensorStore that has failed: of several, one is raised."""
    return "never retrieved" in record.getMessage() and "OCDBT" in str((record.exc_info or (None, None))[1])


def this_process_alone(ocp: Any) -> Any:
    """Orbax's options that keep it from waiting for the other processes of a run."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})


def _interrupted(error: BaseException | None) -> bool:
    """Whether a second Ctrl-C caused an error: Orbax reports it as an error of reading."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _delayed_interrupt() -> Iterator[None]:
    """Delay the first Ctrl-C to the end of the block and print a line about it; a second one takes effect at once.

    TensorStore's threads can't be stopped: they would go on writing into a folder that is being removed, or print errors
    because nobody waits for their results.
    """
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread receives signals. If the handler isn't a Python function, Ctrl-C is ignored or ends the process.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed = []

    def delay(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        print("stopping after the current read or write; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, delay)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextlib.contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """The absolute path of a tree. If a folder above it has a name that isn't UTF-8, which TensorStore can't take, the path
    leads through a temporary link to that folder.
    """
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.parent)
            yield link / path.name
    else:
        yield path
