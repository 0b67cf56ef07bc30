"""The `config.json` of folders that svdjax writes: format, version, and the sizes of all files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.checkpoints.recognize import check_input_folder, wrong_folder
from svdjax.errors import InputError, one_line
from svdjax.models.backward import QUERIES, VALUES
from svdjax.runtime.input_files import read_json, reading
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

    @property
    def described(self) -> str:
        """What such a folder is, for messages."""
        return f"a folder that {self.made_by} writes"


MODEL = FolderFormat("svdjax-model", 1, "convert.svd_to_flax or train.base")
BACKWARD = FolderFormat("svdjax-backward", 2, "train.backward")  # version 1 had values instead of differences

_INCOMPLETE = "the checkpoint is not complete, make or copy it again"


def has_format(path: Path, folder_format: FolderFormat) -> bool:
    """Whether a folder has a format, in any version."""
    try:
        return read_json(path / "config.json").get("format") == folder_format.name
    except InputError:
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
    expected = folder_format.described
    check_input_folder(path, expected)
    if not os.path.lexists(file):
        raise wrong_folder(path, expected, "has no config.json")
    data = read_json(file)
    name = data.get("format")
    if name != folder_format.name:
        raise wrong_folder(path, expected, f"format in config.json is {one_line(repr(name), 80)}, not {folder_format.name!r}")
    check_version(file, data.get("version"), folder_format)
    _check_files(path, data.get("files"))
    return data


def check_backward_info(info: Any) -> dict[str, Any]:
    """Return what a `config.json` says about backward weights, checked: the trained kinds, perhaps hashes.

    Raises:
        InputError: the message doesn't name the file.
    """
    if not isinstance(info, dict):
        raise InputError("it has no information about the backward weights")
    trained = info.get("trained")
    if not isinstance(trained, list) or not trained or not all(kind in (*VALUES, *QUERIES) for kind in trained):
        raise InputError(f"trained is {one_line(repr(trained), 80)}, expected some of {', '.join((*VALUES, *QUERIES))}")
    check_sources(info.get("sources") or {})
    return info


def check_sources(sources: Any) -> dict[str, str]:
    """Return the hashes in a `config.json`, checked; for errors see `check_backward_info`."""
    if not isinstance(sources, dict) or not all(isinstance(value, str) for value in sources.values()):
        raise InputError(f"sources are {one_line(repr(sources), 80)}, expected a hash by file")
    return sources


def check_version(file: Path, version: Any, folder_format: FolderFormat) -> None:
    """Raise `InputError` unless a format's version is the one that is read; `file` is for the message."""
    if version != folder_format.version:
        newer = not isinstance(version, int) or version > folder_format.version
        advice = "update svdjax" if newer else f"make it again with {folder_format.made_by}"
        reads = f"svdjax {__version__} reads {folder_format.version}"
        raise InputError(f"{file}: version is {one_line(version, 80)}, {reads}: {advice}")


def _check_files(folder: Path, sizes: Any) -> None:
    """Check the files before TensorStore reads them: for damaged files it prints a traceback per tensor on standard error."""
    if not isinstance(sizes, dict):
        raise InputError(f"{folder / 'config.json'}: is damaged: it lists no files")
    for name, size in sizes.items():
        path = folder / name
        if not isinstance(size, int):
            raise InputError(f"{folder / 'config.json'}: is damaged: the size of {name} is {one_line(repr(size), 80)}")
        if not os.path.isfile(path):
            raise InputError(f"{path}: is missing: {_INCOMPLETE}")
        with reading(path) as file:
            actual = os.fstat(file.fileno()).st_size
        if actual != size:
            raise InputError(f"{path}: has {actual:,} bytes, expected {size:,}: {_INCOMPLETE}")
