"""The folder of a run: what it is a run of, and whether it may be begun or continued.

OUT/run.json, OUT/metrics.csv, OUT/loss.png, OUT/data.csv, OUT/checkpoints/, OUT/validation/, OUT/tensorboard/, and what comes
of it, OUT/backward/ or OUT/model/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file
from svdjax.version import __version__

FORMAT = "svdjax-run"
VERSION = 1


def check_new_or_continued(out: Path, resume: bool) -> bool:
    """Whether `out` holds a run that is to be continued; before the long work begins.

    Raises:
        InputError: it holds a run and `resume` is not said, something else, its parent doesn't exist, or it can't be written.
    """
    there = os.path.lexists(out)
    place = out if there else out.absolute().parent
    if there and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the run")
    if not place.is_dir():
        raise InputError(f"{out}: its parent folder {place} does not exist")
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"{out}: can't be written: no permission to change {place}")
    if not there or all(_is_remains(path) for path in out.iterdir()):
        return False
    if read(out) is None:
        raise InputError(f"{out}: exists and holds no run of this command, expected a new folder")
    if not resume:
        raise InputError(f"{out}: holds a run already; --resume continues it, another --out begins a new one")
    return True


def read(out: Path) -> dict[str, Any] | None:
    """The settings in `run.json`, or None where there is none.

    Raises:
        InputError: it is damaged, or of a newer version.
    """
    file = out / "run.json"
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_bytes())
        kind, version, settings = data["format"], int(data["version"]), dict(data["settings"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{file}: is damaged: {type(e).__name__} {e}") from None
    if kind != FORMAT or version > VERSION:
        raise InputError(f"{file}: is {kind} {version}, svdjax {__version__} reads {FORMAT} {VERSION}")
    return settings


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Hold the settings that fix a run against those it was begun with.

    Args:
        before, now: by option, or by what else they are; fingerprints under names that don't begin with a dash.
        where: what has the settings `before`.

    Raises:
        InputError: the first that differs, with both values.
    """
    for name in dict.fromkeys((*now, *before)):
        was, found = before.get(name), now.get(name)
        if was == found:
            continue
        if not name.startswith("-"):
            raise InputError(f"{where}: is of a run with another {name}: a run goes on with the same alone")
        raise InputError(f"{where}: is of a run with {_said(name, was)}, not {_said(name, found)}: expected the same")


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return name if value else f"no {name}"
    return f"{name} {value}"


def make(out: Path) -> None:
    """Make the folder, unless it is there.

    Raises:
        InputError: it can't be made.
    """
    try:
        out.mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(f"{out}: can't be made: {e.strerror}") from None


def write(out: Path, settings: Mapping[str, Any]) -> None:
    """Write `run.json`.

    Raises:
        InputError: it can't be written.
    """
    data = {"format": FORMAT, "version": VERSION, "svdjax": __version__, "settings": dict(settings)}
    with new_file(out / "run.json", str(out)) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Within, no other process may use the folder, and nothing is left in it that killed ones had not finished.

    The operating system keeps the lock, so it never outlives its process; where the disk knows no locks there is none.

    Raises:
        InputError: another process uses it.
    """
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another process is training there: expected one at a time") from None
        except OSError:
            pass
        for path in out.iterdir():
            if _is_remains(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _is_remains(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith((".partial", ".old"))
