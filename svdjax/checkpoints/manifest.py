"""The `config.json` of a folder that is written here: what the folder is, and which files belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.version import __version__


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        name: what `config.json` says under `format`.
        version: what it says under `version`; other versions are refused.
        made_by: the command that writes such folders, for messages.
    """

    name: str
    version: int
    made_by: str


MODEL = Kind("svdjax-model", 1, "convert.svd_to_flax")
BACKWARD = Kind("svdjax-backward", 2, "train.backward")  # version 1 held values where there is a difference now


def is_of(path: Path, kind: Kind) -> bool:
    """Whether a folder is of a kind, of any version."""
    try:
        return json.loads((path / "config.json").read_bytes())["format"] == kind.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_manifest(folder: Path, kind: Kind, data: Mapping[str, Any]) -> None:
    """Write `config.json`, the last file of a folder, with the sizes of all others, by which incomplete copies are noticed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    data = {"format": kind.name, "version": kind.version, "svdjax": __version__, **data, "files": files}
    (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n")


def read_manifest(path: Path, kind: Kind) -> dict[str, Any]:
    """The `config.json` of a folder of a kind, whose files must all be there and of the size that they had.

    Raises:
        InputError: another kind of folder, another version, or one with damaged or missing files.
    """
    file = path / "config.json"
    expected = f"a folder that {kind.made_by} writes"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected {expected}")
    try:
        data = json.loads(file.read_bytes())
    except OSError as e:
        raise InputError(f"{file}: can't be read ({e.strerror}): {path} is not {expected}") from None
    except ValueError as e:
        raise InputError(f"{file}: is not JSON: {e}") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != kind.name:
        raise InputError(f"{file}: format is {found!r}, expected {kind.name!r}: {path} is not {expected}")
    version = data.get("version")
    if version != kind.version:
        newer = not isinstance(version, int) or version > kind.version
        advice = "update svdjax" if newer else f"make it again with {kind.made_by}"
        raise InputError(f"{file}: version is {version}, svdjax {__version__} reads {kind.version}: {advice}")
    files = data.get("files")
    if not isinstance(files, dict):
        raise InputError(f"{file}: is damaged: it lists no files")
    # Checked here because TensorStore reports what it can't read on standard error, a traceback a tensor.
    for name, size in files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes, expected {size:,}"
            raise InputError(f"{path / name}: {state}: the checkpoint is not complete, make or copy it again")
    return data
