"""Shared parts of all commands: option parser, one-line errors, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from svdjax.devices.backend import failure_in_one_line
from svdjax.errors import InputError, one_line
from svdjax.runtime import startup
from svdjax.runtime.startup import INTERRUPTED, take_over_interrupts
from svdjax.runtime.streams import flush_or_drop, safe_streams

USER_ERROR = 2  # exit status after a user error, the same as argparse's


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` instead of printing its usage, and does not accept abbreviated options.

    Args:
        prog: how the command is called as a module, `python -m sample.interpolate`; called by its console script, it is that.
    """

    def __init__(self, *args: Any, prog: str | None = None, **kwargs: Any):
        super().__init__(*args, prog=startup.script_name or prog, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def run(command: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    """Run a command.

    Args:
        command: called with the arguments. Its `InputError` is printed on standard error as one line, `error: ...`; so are
            errors of the operating system, such as a file that can't be read, and of JAX if no device can be used.
        argv: the arguments; None for those of the process.

    Returns:
        The exit status: 0, 2 after such an error, 130 after Ctrl-C.
    """
    take_over_interrupts()
    with safe_streams():
        try:
            command(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as e:
            message = describe(e)
            if message is None:
                raise
            print("error:", message, file=sys.stderr)
            return USER_ERROR
    return 0


def describe(error: Exception) -> str | None:
    """One line for an error that a user can do something about; None for others, which are faults of the program."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        name = next((name for name in (error.filename2, error.filename) if name is not None), None)
        reason = error.strerror or type(error).__name__
        return one_line(reason if name is None else f"{_text(name)}: {reason}")
    if isinstance(error, MemoryError):
        return one_line(f"not enough memory on this host{f': {error}' if str(error) else ''}")
    return failure_in_one_line(error)


def _text(name: str | bytes | int) -> str:
    return f"file {name}" if isinstance(name, int) else os.fsdecode(name)


def leave(status: int) -> NoReturn:
    """End the process; after Ctrl-C immediately, because threads that read data would continue and report errors."""
    flush_or_drop()
    if status == INTERRUPTED:
        os._exit(status)
    sys.exit(status)
