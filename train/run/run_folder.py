"""The folder of a run: its settings, its lock, and whether a run may start or resume there.

OUT/run.json, OUT/metrics.csv, OUT/loss.png, OUT/data.csv, OUT/checkpoints/, OUT/damaged/, OUT/validation/, OUT/tensorboard/,
and the result, OUT/backward/ or OUT/model/
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


def check_new_or_resumed(out: Path, resume: bool) -> bool:
    """Whether `out` holds a run to resume. Call it before any long work.

    Args:
        out: the folder, which need not exist.
        resume: whether a run there may be resumed.

    Raises:
        InputError: `out` holds something else, or a run without `resume`; its parent doesn't exist; or it can't be written.
    """
    exists = os.path.lexists(out)
    changed = out if exists else out.absolute().parent
    if exists and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the run")
    if not changed.is_dir():
        raise InputError(f"{out}: its parent folder {changed} does not exist")
    if not os.access(changed, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(f"{out}: can't be written: no permission to change {changed}")
    if not exists or all(_is_unfinished(path) for path in out.iterdir()):
        return False
    if read_settings(out) is None:
        raise InputError(f"{out}: exists and holds no run of this command, expected a new folder")
    if not resume:
        raise InputError(f"{out}: holds a run already; --resume continues it, another --out begins a new one")
    return True


def read_settings(out: Path) -> dict[str, Any] | None:
    """The settings in `run.json`, or None if there is no such file.

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
        raise InputError(f"{file}: is {kind} {version}, expected {FORMAT} {VERSION}, which svdjax {__version__} reads")
    return settings


def check_same_settings(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Check that a saved run has the settings of this command.

    Args:
        saved: values by option; fingerprints by names that don't begin with a dash.
        now: those of this command, in the same form.
        where: folder of the saved run or checkpoint, for the message.

    Raises:
        InputError: the first setting that differs, with both values.
    """
    for name in dict.fromkeys((*now, *saved)):
        old, new = saved.get(name), now.get(name)
        if old == new:
            continue
        if not name.startswith("-"):
            raise InputError(f"{where}: is of a run with another {name}: expected the same")
        raise InputError(f"{where}: is of a run with {_option(name, old)}, not {_option(name, new)}: expected the same")


def _option(name: str, value: Any) -> str:
    """An option and its value, as a user would write them."""
    if isinstance(value, bool) or value is None:
        return name if value else f"no {name}"
    return f"{name} {value}"


def make(out: Path) -> None:
    """Create the folder if it doesn't exist.

    Raises:
        InputError: it can't be created.
    """
    try:
        out.mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(f"{out}: can't be created: {e.strerror}") from None


def write_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write `run.json`.

    Raises:
        InputError: it can't be written.
    """
    data = {"format": FORMAT, "version": VERSION, "svdjax": __version__, "settings": dict(settings)}
    with new_file(out / "run.json", str(out)) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock the folder against other processes, and remove unfinished files of killed processes from it.

    The operating system releases the lock when the process ends. On a file system without locks this does nothing.

    Raises:
        InputError: another process uses the folder.
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
            if _is_unfinished(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith((".partial", ".old"))
