"""Checks of output paths, for use before the long work of a command starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from svdjax.errors import InputError


def check_parent(path: Path, name: str | None = None) -> None:
    """Check that the parent of a path is a folder.

    Args:
        path: the file or folder to be written.
        name: its name in messages, such as `--sheet FILE`; default: the path.

    Raises:
        InputError: the parent doesn't exist or is a file.
    """
    parent = path.absolute().parent
    if not os.path.isdir(parent):  # unlike pathlib's, this doesn't raise if a folder above can't be entered
        problem = f"{parent} is a file, expected a folder" if os.path.exists(parent) else f"the folder {parent} doesn't exist"
        raise InputError(f"{name or path}: {problem}")


def check_writable(folder: Path, name: str | None = None) -> None:
    """Check that a file can be created in a folder, by creating a temporary one.

    Permission bits alone would miss read-only disks, quotas and access lists.

    Args:
        folder: an existing folder.
        name: name of the output in messages; default: the folder.

    Raises:
        InputError: no file can be created there.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except PermissionError:
        raise InputError(f"{name or folder}: no permission to write there") from None
    except OSError as e:
        raise InputError(f"{name or folder}: can't be written: {e.strerror or e}") from None


def check_new_file(path: Path, option: str, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that a file can be written, and that it doesn't exist or may be replaced.

    Args:
        path: the file.
        option: the command's option, for messages.
        endings: allowed endings, such as `(".png",)`.
        overwrite: whether an existing file may be replaced.

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
