"""Folders in the user's cache that are made on first use, and made again if they are damaged."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from svdjax.errors import InputError
from svdjax.runtime.cli import describe
from svdjax.runtime.compilation_cache import user_folder, writable_user_folder
from svdjax.runtime.input_files import read_json, reading

_HASHES = "sha256.json"  # hashes of all other files of a folder: after a crash files may have their size, but not their content


def cached_folder(name: str, make: Callable[[Path], object], what: str) -> Path:
    """A folder of the user's cache, made if it isn't there or isn't whole.

    If the cache can't be written, the folder is made in a temporary folder, which is removed at the end of the process, and a
    note on standard error says so.

    Args:
        name: the folder's name; it must identify the content.
        make: creates the folder at a path. Several processes may do so at once.
        what: describes the content in the note.

    Raises:
        InputError: the folder can't be made, in the cache and in a temporary folder.
    """
    cache = user_folder()
    if cache is not None and _is_whole(cache / name):
        return cache / name
    try:
        return _made(writable_user_folder(), name, make)
    except (InputError, OSError) as e:
        temporary = _temporary_folder()
        if not _is_whole(temporary / name):
            print(f"note: {what} is not kept for later runs: {describe(e)}", file=sys.stderr)
            _made(temporary, name, make)
        return temporary / name


def _made(parent: Path, name: str, make: Callable[[Path], object]) -> Path:
    folder = parent / name
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}-") as temporary:
        made = Path(temporary) / "made"
        make(made)
        (made / _HASHES).write_text(json.dumps(_hashes(made)))
        if not _is_whole(folder):  # another process may have made it meanwhile
            _discard(folder)
            try:
                made.rename(folder)
            except OSError:
                if not _is_whole(folder):
                    raise
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds what was made: the same files with the same content."""
    try:
        return read_json(folder / _HASHES) == _hashes(folder)
    except (InputError, OSError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _HASHES:
            with reading(path) as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _discard(folder: Path) -> None:
    """Remove a damaged folder, or what is in its place; what can't be deleted is out of the way."""
    if not os.path.lexists(folder):
        return
    damaged = folder.with_name(f".{secrets.token_hex(4)}.damaged")
    folder.rename(damaged)
    with contextlib.suppress(OSError):
        if damaged.is_dir() and not damaged.is_symlink():
            damaged.chmod(0o700)
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            damaged.unlink()


@functools.cache
def _temporary_folder() -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="svdjax-")
    except OSError as e:
        raise InputError(f"temporary folder: can't be created: {e.strerror or e}: set TMPDIR to another folder") from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
