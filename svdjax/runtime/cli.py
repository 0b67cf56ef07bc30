"""Shared parts of all commands: option parser, one-line errors, exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from svdjax.errors import InputError, one_line

USER_ERROR = 2  # exit status after a user error, the same as argparse's
INTERRUPTED = 130  # exit status after Ctrl-C, the same as in shells


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` instead of printing its usage, and does not accept abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def run(command: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    """Run a command.

    Args:
        command: called with the arguments. Its `InputError` is printed on standard error as one line, `error: ...`.
        argv: the arguments; None for those of the process.

    Returns:
        The exit status: 0, 2 after an `InputError`, 130 after Ctrl-C.
    """
    try:
        command(argv)
    except InputError as e:
        print("error:", one_line(e), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def leave(status: int) -> NoReturn:
    """End the process; after Ctrl-C immediately, because threads that read data would continue and report errors."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status == INTERRUPTED:
        os._exit(status)
    sys.exit(status)
