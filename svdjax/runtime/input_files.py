"""Files and folders that users give: opened without waiting, read within limits, refused in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from svdjax.errors import InputError, one_line

LARGEST_JSON = 2**24  # bytes; configurations and indices of weight files are far smaller
_LFS_POINTER = b"version https://git-lfs"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading; also for errors of reading within the block.

    Only regular files are opened: opening a named pipe or reading a device could wait forever.

    Raises:
        InputError: it doesn't exist, is not a regular file, or can't be read.
    """
    try:
        if problem := not_a_file(path.stat().st_mode):
            raise InputError(f"{path}: is {problem}, expected a file")
        file = path.open("rb")
    except InputError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL character
        raise InputError(f"{path}: can't be read: {reason(path, e)}") from None
    with file:
        try:
            yield file
        except OSError as e:
            raise InputError(f"{path}: can't be read: {reason(path, e)}") from None


def not_a_file(mode: int) -> str | None:
    """What a `st_mode` that isn't a regular file's stands for, such as `a folder`; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "of an unknown kind")


def reason(path: Path, error: Exception) -> str:
    """Why a path can't be used, from the error of the operating system; explains links that lead nowhere."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and (link := _broken_link(path)):
            return link
        return error.strerror or str(error) or type(error).__name__
    return str(error)


def check_folder(path: Path, expected: str) -> None:
    """Check that a path is a folder that can be entered.

    Args:
        path: the path.
        expected: what the folder should hold, for the message.

    Raises:
        InputError: it is not there, is no folder, or its files can't be opened.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise InputError(f"{path}: is {not_a_file(path.stat().st_mode) or 'a file'}, expected {expected}")
        os.stat(os.path.join(path, "."))  # needs permission to enter, and nothing else
    except FileNotFoundError:
        raise InputError(f"{path}: {_broken_link(path) or 'no such folder'}, expected {expected}") from None
    except OSError as e:
        raise InputError(f"{path}: can't be opened: {reason(path, e)}, expected {expected}") from None
    except ValueError as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{path}: no such folder ({e}), expected {expected}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file can't be read, is too large, or is not a JSON object in UTF-8.
    """
    with reading(path) as file:
        data = file.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise InputError(f"{path}: has more than {LARGEST_JSON:,} bytes, expected a small JSON file")
    if data.startswith(_LFS_POINTER):
        raise InputError(f"{path}: is a Git LFS pointer, expected the file itself: fetch it with `git lfs pull`")
    found = parse_json(data, str(path))
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a JSON {type(found).__name__}, expected an object")
    return found


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text; `where` names it in messages.

    Raises:
        InputError: it is not JSON, is nested too deeply, has a key twice, or has numbers of thousands of digits.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except RecursionError:
        raise InputError(f"{where}: is not JSON that can be read: nested too deeply") from None
    except ValueError as e:  # wrong JSON or wrong encoding
        raise InputError(f"{where}: is not JSON: {one_line(e, 200)}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in found if keys.count(key) > 1)!r} is there twice")
    return found


def _broken_link(path: Path) -> str | None:
    """A phrase about a symbolic link whose target doesn't exist; None for other paths."""
    try:
        return f"is a link to {os.readlink(path)}, which doesn't exist"
    except (OSError, ValueError):
        return None
