"""Output folders and files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from svdjax.errors import InputError
from svdjax.runtime.output_paths import check_parent, check_writable
from svdjax.runtime.sizes import bytes_as_text


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool = False, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a temporary folder next to `out`, and rename it to `out` at the end of the block.

    After an error or Ctrl-C the temporary folder is removed, and an old `out` is unchanged.

    Args:
        out: the folder to create.
        overwrite: whether to replace an existing `out` when the new one is complete.
        ours: returns whether this command wrote a folder; other folders are never replaced.

    Raises:
        InputError: `out` exists and may not be replaced, its parent doesn't exist, or it can't be written.
    """
    target = out.resolve()
    if os.path.lexists(target):
        if not overwrite:
            raise InputError(f"{out}: exists already (--overwrite replaces it)")
        if not target.is_dir() or not ours(target):
            raise InputError(f"{out}: exists and was not written by this command: --overwrite does not replace it")
    check_parent(target, str(out))
    check_writable(target.parent, str(out))
    temporary = _temporary(target)
    try:
        temporary.mkdir()
    except OSError as e:
        raise InputError(f"{out}: can't be written: {e.strerror or e}") from None
    try:
        yield temporary
        if target.exists():
            old = temporary.with_suffix(".old")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_file(out: Path, name: str = "") -> Iterator[Path]:
    """Yield the path of a temporary file next to `out`, to be written in the block, and rename it to `out` at the end.

    After an error the temporary file is removed, and an old `out` is unchanged.

    Args:
        out: the file to create or replace.
        name: its name in messages; default: its path.

    Raises:
        InputError: it can't be written.
    """
    temporary = _temporary(out)
    try:
        yield temporary
        temporary.replace(out)
    except OSError as e:
        raise InputError(f"{name or out}: can't be written: {e.strerror or e}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A hidden path next to `path`. Its name is short: a longest possible name with an addition would be too long."""
    return path.with_name(f".svdjax-{secrets.token_hex(4)}.partial")


def require_space(folder: Path, needed: int, out: Path) -> None:
    """Raise `InputError` unless the disk of `folder` has `needed` bytes free; `out` is for the message."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{out}: needs {bytes_as_text(needed)} of disk space, {bytes_as_text(free)} are free")
