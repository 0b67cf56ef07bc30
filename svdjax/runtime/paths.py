"""Paths that users give: types of command-line arguments, and the check that a file can have the path at all.

Every argument of every command that is a path has the type `path`, or `path_text`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from svdjax.errors import InputError


def check_reachable(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Check that a file can have this path; it need not exist.

    Args:
        path: the path.
        name: its name in messages; default: the path.

    Raises:
        InputError: the path is empty, too long, or holds a null character; or it leads through a file, through a link to
            itself, or through a folder that this user can't enter.
    """
    name = name or os.fspath(path)
    if not os.fspath(path):
        raise InputError("is empty, expected a path")
    try:
        os.lstat(path)
        if os.path.islink(path):
            os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as e:
        raise InputError(f"{name}: {(e.strerror or type(e).__name__).lower()}") from None
    except ValueError as e:  # a null character
        raise InputError(f"{name}: not a possible path ({e})") from None


def path_text(text: str) -> str:
    """A path as text, for arguments where a trailing `/` or a leading `./` has a meaning.

    Raises:
        argparse.ArgumentTypeError: see `check_reachable`.
    """
    try:
        check_reachable(text)
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def path(text: str) -> Path:
    """A path; see `path_text`."""
    return Path(path_text(text))
