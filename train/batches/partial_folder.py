"""Folders that are written by several processes, perhaps of several hosts, and appear complete or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

LOCK = "lock"  # a file in the folder: NFS has no locks of folders


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """A new hidden folder beside `target`, to be renamed to it in the block. A folder that is not renamed is removed.

    It is locked during the block, so that `remove_abandoned` keeps it. The operating system releases the lock when the process
    ends.

    Raises:
        OSError: it can't be created.
    """
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    partial = new.with_suffix(".partial")
    try:
        new.mkdir()
        with (new / LOCK).open("w") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(partial)  # only now: before, it would look abandoned
            yield partial
    finally:
        for folder in (new, partial):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (target / LOCK).unlink()


def remove_abandoned(folder: Path, names: Collection[str]) -> None:
    """Remove the partial folders of processes that have ended.

    Args:
        folder: the parent of the targets.
        names: the targets' names.
    """
    for partial in folder.glob(".*.partial"):
        if partial.name.split(".")[1] in names and not _in_use(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _in_use(partial: Path) -> bool:
    """Whether a process writes to a folder, or could: on a file system without locks this can't be known."""
    try:
        with (partial / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:  # removed halfway
        return False
    except OSError:
        return True
    return False
