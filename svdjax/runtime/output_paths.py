"""Checks of paths that a command will write to, before its long work starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from svdjax.errors import InputError


def check_parent(path: Path, name: str | None = None) -> None:
    """Refuse a path whose parent is not a folder.

    Args:
        path: the file or folder to be written.
        name: how messages call it, such as `--sheet FILE`; the path if left out.

    Raises:
        InputError: the parent doesn't exist or is a file.
    """
    parent = path.absolute().parent
    if not os.path.isdir(parent):  # pathlib's raises where a folder above may not be entered
        state = "is a file, expected a folder" if os.path.exists(parent) else "doesn't exist"
        raise InputError(f"{name or path}: the folder {parent} {state}")


def check_writable(folder: Path, name: str | None = None) -> None:
    """Refuse a folder in which no file can be made.

    A file is made and removed: permission bits say nothing of read-only disks, quotas and access lists.

    Args:
        folder: exists.
        name: how messages call what is to be written there; the folder if left out.

    Raises:
        InputError: no file can be made there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except PermissionError:
        raise InputError(f"{name or folder}: no permission to write there") from None
    except OSError as e:
        raise InputError(f"{name or folder}: can't be written ({e.strerror or e})") from None


def check_new_file(path: Path, option: str, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse the path of a file that can't be written, or may not be replaced.

    Args:
        path: the file.
        option: the command's option, for messages.
        endings: the allowed endings, such as `(".png",)`.
        overwrite: whether a file at `path` is replaced.

    Raises:
        InputError: another ending, a missing or unwritable folder, an existing folder, or an existing file without `overwrite`.
    """
    name = f"{option} {path}"
    if path.suffix not in endings:
        raise InputError(f"{name}: expected a file name ending in {' or '.join(endings)}")
    check_parent(path, name)
    if os.path.isdir(path):
        raise InputError(f"{name}: is a folder, expected a file")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{name}: exists already (--overwrite replaces it)")
    check_writable(path.absolute().parent, name)
