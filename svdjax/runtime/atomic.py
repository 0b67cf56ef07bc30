"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from svdjax.errors import InputError


@contextlib.contextmanager
def new_folder(out: Path, *, overwrite: bool = False, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder under a temporary name beside `out`, renamed to `out` at the end of the block.

    After an error or Ctrl-C the temporary folder is removed and an old `out` is as it was.

    Args:
        out: the folder to make.
        overwrite: whether an existing `out` is replaced, once the new one is complete.
        ours: whether an existing folder is of the kind written here; nothing else is ever replaced.

    Raises:
        InputError: `out` exists and may not be replaced, its parent doesn't exist, or it can't be written.
    """
    target = out.resolve()
    if os.path.lexists(target):
        if not overwrite:
            raise InputError(f"{out}: exists already; --overwrite replaces it")
        if not target.is_dir() or not ours(target):
            raise InputError(f"{out}: exists and was not written by this command: --overwrite does not replace it")
    if not target.parent.is_dir():
        raise InputError(f"{out}: its parent folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        temporary.mkdir()
    except OSError as e:
        raise InputError(f"{out}: can't be written: {e.strerror}") from None
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
def new_file(out: Path, said: str = "", hint: str = "") -> Iterator[Path]:
    """A file named `.*.partial` beside `out`, to be written in the block and renamed to `out` at its end.

    After an error an old `out` is as it was.

    Args:
        out: the file to make, or to replace.
        said: what messages call it; its path if left out.
        hint: what messages end with.

    Raises:
        InputError: it can't be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield temporary
        temporary.replace(out)
    except OSError as e:
        raise InputError(f"{said or out}: can't be written: {e.strerror or e}{hint}") from None
    finally:
        temporary.unlink(missing_ok=True)


def require_space(folder: Path, needed: int, out: Path) -> None:
    """Refuse to begin what can't be finished: `needed` bytes must be free where `folder` is; `out` is for the message."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{out}: {needed / 2**30:.1f} GiB are needed there, {free / 2**30:.1f} GiB are free")
