"""The `config.json` of folders that svdjax writes: format, version, and the sizes of all files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.errors import InputError
from svdjax.version import __version__


@dataclass(frozen=True)
class FolderFormat:
    """A folder format.

    Attributes:
        name: `format` in `config.json`.
        version: `version` in `config.json`; other versions are refused.
        made_by: the commands that write such folders, for messages.
    """

    name: str
    version: int
    made_by: str


MODEL = FolderFormat("svdjax-model", 1, "convert.svd_to_flax or train.base")
BACKWARD = FolderFormat("svdjax-backward", 2, "train.backward")  # version 1 had values instead of differences


def has_format(path: Path, folder_format: FolderFormat) -> bool:
    """Whether a folder has a format, in any version."""
    try:
        return json.loads((path / "config.json").read_bytes())["format"] == folder_format.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_manifest(folder: Path, folder_format: FolderFormat, data: Mapping[str, Any]) -> None:
    """Write `config.json`, after all other files of a folder: it holds their sizes, to detect incomplete copies."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    header = {"format": folder_format.name, "version": folder_format.version, "svdjax": __version__}
    (folder / "config.json").write_text(json.dumps({**header, **data, "files": files}, indent=2) + "\n")


def read_manifest(path: Path, folder_format: FolderFormat) -> dict[str, Any]:
    """Read the `config.json` of a folder and check that all its files are there with their recorded sizes.

    Raises:
        InputError: another format or version, or damaged or missing files.
    """
    file = path / "config.json"
    expected = f"a folder that {folder_format.made_by} writes"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected {expected}")
    try:
        data = json.loads(file.read_bytes())
    except OSError as e:
        raise InputError(f"{file}: can't be read ({e.strerror}): {path} is not {expected}") from None
    except ValueError as e:
        raise InputError(f"{file}: is not JSON: {e}") from None
    name = data.get("format") if isinstance(data, dict) else None
    if name != folder_format.name:
        raise InputError(f"{file}: format is {name!r}, expected {folder_format.name!r}: {path} is not {expected}")
    _check_version(file, data.get("version"), folder_format)
    _check_files(path, data.get("files"))
    return data


def _check_version(file: Path, version: Any, folder_format: FolderFormat) -> None:
    if version != folder_format.version:
        newer = not isinstance(version, int) or version > folder_format.version
        advice = "update svdjax" if newer else f"make it again with {folder_format.made_by}"
        raise InputError(f"{file}: version is {version}, svdjax {__version__} reads {folder_format.version}: {advice}")


def _check_files(folder: Path, sizes: Any) -> None:
    """Check the files before TensorStore reads them: for damaged files it prints a traceback per tensor on standard error."""
    if not isinstance(sizes, dict):
        raise InputError(f"{folder / 'config.json'}: is damaged: it lists no files")
    for name, size in sizes.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            state = "is missing" if actual is None else f"has {actual:,} bytes, expected {size:,}"
            raise InputError(f"{path}: {state}: the checkpoint is not complete, make or copy it again")
