"""The folder of a run: its settings, its lock, and whether a run may start or resume there.

OUT/run.json, OUT/metrics.csv, OUT/loss.png, OUT/data.csv, OUT/scan.json, OUT/checkpoints/, OUT/damaged/, OUT/validation/,
OUT/tensorboard/, and the result, OUT/backward/ or OUT/model/
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file
from svdjax.runtime.input_files import reading
from svdjax.runtime.output_paths import check_parent, check_writable
from svdjax.version import __version__
from train.run.complete_checkpoints import DAMAGED, saved_steps

FORMAT = "svdjax-run"
VERSION = 1
SETTINGS, METRICS, DATA, SCAN, CHECKPOINTS = "run.json", "metrics.csv", "data.csv", "scan.json", "checkpoints"
_RESULTS = ("backward", "model")
_WRITTEN_BEFORE_A_STEP = (SETTINGS, METRICS, DATA, SCAN, CHECKPOINTS, "tensorboard")


def check_new_or_resumed(out: Path, resume: bool) -> bool:
    """Whether `out` holds a run to resume. Call it before any long work.

    A run without a finished step is not resumed and refuses nothing: the next command starts in its folder, with any settings.

    Args:
        out: the folder, which need not exist.
        resume: whether a run there may be resumed.

    Raises:
        InputError: `out` holds something else, a run without `resume`, or a result without a checkpoint; its parent doesn't
            exist; or it can't be written.
    """
    check_parent(out)
    if not os.path.lexists(out):
        check_writable(out.absolute().parent, str(out))
        return False
    if not out.is_dir():
        found = "a file" if out.exists() else "a link that leads nowhere"
        raise InputError(f"{out}: is {found}, expected a folder for the run")
    check_writable(out)
    if not _is_run(out):
        raise InputError(f"{out}: exists and holds no run of this command, expected a new folder")
    if os.path.lexists(folder := out / CHECKPOINTS):
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder, expected the checkpoints of the run")
        check_writable(folder)
    if not has_steps(out):
        return False
    _check_result_is_kept(out)
    if not resume:
        raise InputError(f"{out}: holds a run already; --resume continues it, another --out begins a new one")
    return True


def _is_run(out: Path) -> bool:
    """Whether a folder is empty or holds a run, also one without a finished step, or without its settings.

    Raises:
        InputError: its settings are of another program or version.
    """
    if read_settings(out) is not None or saved_steps(out / CHECKPOINTS):
        return True
    # The settings are missing or damaged, as after a crash: a new run replaces only files that are certainly of such a run.
    names = [path.name for path in out.iterdir() if not _is_unfinished(path)]
    return not names or (SETTINGS in names and set(names) <= set(_WRITTEN_BEFORE_A_STEP))


def has_steps(out: Path) -> bool:
    """Whether a finished step is recorded: in a checkpoint, a result or `metrics.csv`."""
    if has_weights(out):
        return True
    try:
        with (out / METRICS).open("rb") as file:
            file.readline()  # the names of the columns
            return bool(file.readline().strip())
    except OSError:
        return False


def has_weights(out: Path) -> bool:
    """Whether the folder holds trained weights: a checkpoint, also a damaged one, or a result."""
    return bool(saved_steps(out / CHECKPOINTS)) or any((out / name).is_dir() for name in (DAMAGED, *_RESULTS))


def _check_result_is_kept(out: Path) -> None:
    """Raise `InputError` for a result whose checkpoints are gone: the run would start again, and replace it at the end."""
    found = [name for name in _RESULTS if (out / name).is_dir()]
    if found and not saved_steps(out / CHECKPOINTS):
        start = f"{'--init' if found[0] == 'backward' else '--model'} {out / found[0]}"
        raise InputError(
            f"{out}: holds the result {found[0]} but no checkpoint to resume from: expected another --out; {start} starts "
            "there from this result"
        )


def read_settings(out: Path) -> dict[str, Any] | None:
    """The settings in `run.json`, or None if there is no such file, or it is damaged.

    Raises:
        InputError: it can't be opened, or is of another program or a newer version.
    """
    file = out / SETTINGS
    if not os.path.lexists(file):
        return None
    with reading(file) as opened:
        text = opened.read()
    try:
        data = json.loads(text)
        kind, version, settings = data["format"], int(data["version"]), dict(data["settings"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    if kind != FORMAT or version > VERSION:
        raise InputError(f"{file}: is {kind} {version}, expected {FORMAT} {VERSION}, which svdjax {__version__} reads")
    return settings


def keep_aside(path: Path) -> Path:
    """Rename a file to a new name in its folder, such as `metrics-1.csv`; returns the new path.

    Raises:
        InputError: it can't be renamed.
    """
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(1))
    target = next(name for name in names if not os.path.lexists(name))
    try:
        path.rename(target)
    except OSError as e:
        raise InputError(f"{path}: can't be renamed to {target.name}: {e.strerror or e}") from None
    return target


def check_same_settings(saved: Mapping[str, Any], now: Mapping[str, Any], where: Path, done: int = 0) -> None:
    """Check that a saved run has the settings of this command.

    `--steps`, which sets the learning rate of `train.base`, may be the number of steps done: then no step is left to do.

    Args:
        saved: values by option; fingerprints by names that don't begin with a dash.
        now: those of this command, in the same form.
        where: folder of the saved run or checkpoint, for the message.
        done: number of steps done.

    Raises:
        InputError: the first setting that differs, with both values.
    """
    for name in dict.fromkeys((*now, *saved)):
        old, new = saved.get(name), now.get(name)
        if old == new or (name == "--steps" and new == done):
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


def mark(out: Path) -> str:
    """Write a new empty file, which `locked` removes if this process doesn't; returns its path.

    Raises:
        InputError: it can't be written.
    """
    path = out / f".svdjax-{secrets.token_hex(8)}.partial"
    try:
        path.touch()
    except OSError as e:
        raise InputError(f"{out}: can't be written: {e.strerror}") from None
    return str(path)


def write_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write `run.json`.

    Raises:
        InputError: it can't be written.
    """
    data = {"format": FORMAT, "version": VERSION, "svdjax": __version__, "settings": dict(settings)}
    with new_file(out / SETTINGS, str(out)) as temporary:
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
