"""Checks of output paths, for use before the long work of a command starts."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from svdjax.errors import InputError
from svdjax.runtime.paths import check_reachable

_PROBE_BYTES = 4096  # a full disk accepts new files, but no block of data


def check_parent(path: Path, name: str | None = None) -> None:
    """Check that the parent of a path is a folder.

    Args:
        path: the file or folder to be written.
        name: its name in messages, such as `--sheet FILE`; default: the path.

    Raises:
        InputError: the parent doesn't exist or is a file, or no file can have this path.
    """
    parent = path.absolute().parent
    is_folder = os.path.isdir(parent)  # unlike pathlib's, this doesn't raise if a folder above can't be entered
    if not is_folder and os.path.exists(parent):
        raise InputError(f"{name or path}: {parent} is a file, expected a folder")
    check_reachable(path, name)
    if not is_folder:
        raise InputError(f"{name or path}: the folder {parent} doesn't exist")


def check_writable(folder: Path, name: str | None = None) -> None:
    """Check that a file can be created in a folder, by writing a small one.

    Permission bits alone would miss full and read-only disks, quotas and access lists.

    Args:
        folder: an existing folder.
        name: name of the output in messages; default: the folder.

    Raises:
        InputError: no file can be written there.
    """
    try:
        # Unbuffered: after a failed flush, closing would fail too, and the file would stay.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".svdjax-", suffix=".partial", buffering=0) as file:
            if file.write(bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
        InputError: another ending, a missing or unwritable folder, an existing folder, a link that leads
            nowhere, or an existing file without `overwrite`.
    """
    name = f"{option} {path}"
    if path.suffix not in endings:
        raise InputError(f"{name}: expected a file name ending in {' or '.join(endings)}")
    check_parent(path, name)
    if os.path.isdir(path):
        raise InputError(f"{name}: is a folder, expected a file")
    if os.path.islink(path) and not os.path.exists(path):
        raise InputError(f"{name}: is a link to {os.readlink(path)}, which doesn't exist")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{name}: exists already (--overwrite replaces it)")
    check_writable(path.absolute().parent, name)


def check_new_files_in(folder: Path, name: str, files: Iterable[str] = ()) -> None:
    """Check that files can be written in a folder that exists or can be made.

    Args:
        folder: the folder.
        name: its name in messages, such as `--hlo DIR`.
        files: names of files that may exist and are replaced.

    Raises:
        InputError: it is not a folder, or can't be written.
    """
    if os.path.isdir(folder):
        check_writable(folder, name)
        for file in files:
            check_new_file(folder / file, name, (Path(file).suffix,), overwrite=True)
        return
    if os.path.lexists(folder):
        found = "a link to nowhere" if os.path.islink(folder) else "a file"
        raise InputError(f"{name}: is {found}, expected a folder")
    check_parent(folder, name)
    check_writable(folder.absolute().parent, name)
