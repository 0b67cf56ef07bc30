"""The first moments of a command's process, before the slow imports."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from svdjax.runtime.streams import open_closed_descriptors

INTERRUPTED = 130  # exit status after Ctrl-C, the same as in shells

script_name: str | None = None  # of the console script that runs this process; None with `python -m`


def begin() -> None:
    """Prepare the process of a command. Call it before other imports.

    Until `cli.run` takes over, Ctrl-C ends the process with one line: Python would print a traceback of the imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    open_closed_descriptors()
    _forget_working_folder()


def take_over_interrupts() -> None:
    """From now on Ctrl-C raises `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _forget_working_folder() -> None:
    """Remove the working folder from the import path, unless this package was imported from it.

    `python -m` puts it first: a file `random.py` or `train.py` there would be imported in place of the real module.
    """
    ours = Path(__file__).resolve().parents[2]
    with contextlib.suppress(OSError):
        working = Path.cwd().resolve()
        if working != ours:
            sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != working]


def run_command(module: str) -> None:
    """Run a command from its console script: like `python -m`, but with the working folder off the import path.

    Args:
        module: name of the command's module.
    """
    global script_name
    script_name = Path(sys.argv[0]).stem  # `runpy` replaces it by the module's path
    begin()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
