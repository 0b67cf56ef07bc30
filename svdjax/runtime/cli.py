"""What every command shares: one line of error instead of a usage dump or a traceback, and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from svdjax.errors import InputError

USER_ERROR = 2  # exit status of a mistake of the user's, argparse's own
INTERRUPTED = 130  # exit status after Ctrl-C, as shells report it


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` instead of printing its usage, and takes no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help lists the options)")


def run(command: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    """Run a command and return its exit status: 0, 2 after an `InputError`, 130 after Ctrl-C.

    Args:
        command: takes the arguments (None: those of the process) and raises `InputError` for a mistake of the user's,
            which becomes one line on standard error, `error: ...`.
    """
    try:
        command(argv)
    except InputError as e:
        print("error:", " ".join(str(e).split()), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def leave(status: int) -> NoReturn:
    """End the process. After Ctrl-C at once: threads that still read would go on, and then report what they missed."""
    sys.stdout.flush()
    sys.stderr.flush()
    if status == INTERRUPTED:
        os._exit(status)
    sys.exit(status)
