"""The folder of a run: what it is a run of, and whether it may be begun or continued.

OUT/run.json, OUT/metrics.csv, OUT/loss.png, OUT/data.csv, OUT/checkpoints/, OUT/validation/, OUT/backward/
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svdjax import __version__
from svdjax.errors import InputError

FORMAT = "svdjax-run"
VERSION = 1


def check_new_or_continued(out: Path, resume: bool) -> bool:
    """Whether `out` holds a run that is to be continued; before the long work begins.

    Raises:
        InputError: it holds a run and `resume` is not said, something else, or its parent doesn't exist.
    """
    if not os.path.lexists(out):
        if not out.absolute().parent.is_dir():
            raise InputError(f"{out}: its parent folder {out.absolute().parent} does not exist")
        return False
    if not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the run")
    if not any(out.iterdir()):
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
        kind, version, settings = data["format"], data["version"], data["settings"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{file}: is damaged: {type(e).__name__} {e}") from None
    if kind != FORMAT or version > VERSION:
        raise InputError(f"{file}: is {kind} {version}, svdjax {__version__} reads {FORMAT} {VERSION}")
    return settings


def check_same(out: Path, settings: Mapping[str, Any]) -> None:
    """Hold the settings that fix a run against those it was begun with.

    Raises:
        InputError: the first that differs, with both values.
    """
    before = read(out) or {}
    for name in (*settings, *before):
        was, now = before.get(name), settings.get(name)
        if was != now:
            raise InputError(f"{out}: holds another run: its {name} is {_short(was)}, this one's {_short(now)}")


def write(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, with its `run.json`.

    Raises:
        InputError: it can't be written.
    """
    temporary = out / f".run.json.{os.getpid()}"
    try:
        out.mkdir(exist_ok=True)
        data = {"format": FORMAT, "version": VERSION, "svdjax": __version__, "settings": dict(settings)}
        temporary.write_text(json.dumps(data, indent=2) + "\n")
        temporary.replace(out / "run.json")
    except OSError as e:
        raise InputError(f"{out}: can't be written: {e.strerror}") from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
