"""Records of a scan, stored in a file: an unchanged source need not be read again.

A record is used only if all of these are the same: the source's path and kind; size, time of modification, time of the last
change of any kind (`st_ctime_ns`) and inode of each of its files; the settings of a clip; and the code that reads sources.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from svdjax.data.discover import Candidate
from svdjax.data.motion import UNREADABLE, Skipped
from svdjax.data.sources import Source, fingerprint
from svdjax.runtime.atomic import new_file

_PACKAGES = ("av", "pillow", "pillow-heif", "numpy")  # they decode


@dataclass
class ScanRecords:
    """The records of one scan.

    Attributes:
        known: from an earlier scan, by `key`.
        found: of this scan, to be stored.
    """

    known: Mapping[str, Any] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str, candidate: Candidate) -> Source | Skipped | None:
        """The result of an earlier scan, or None if there is none."""
        try:
            fields = dict(self.known[key])
            if "reason" in fields:
                result = Skipped(**fields)
            else:
                starts = tuple((first, end) for first, end in fields.pop("starts"))
                result = Source(path=candidate.path, starts=starts, **fields)
        except (KeyError, TypeError, ValueError):  # not there, or damaged
            return None
        return result if _is_possible(result, candidate) else None

    def add(self, key: str, result: Source | Skipped) -> None:
        """Store a result, except of unreadable sources: the reason may be gone the next time."""
        if not (isinstance(result, Skipped) and result.reason == UNREADABLE):
            self.found[key] = {name: value for name, value in dataclasses.asdict(result).items() if name != "path"}


def _is_possible(result: Source | Skipped, candidate: Candidate) -> bool:
    """Whether a result has the types and ranges that a scan gives it; a damaged file may hold anything."""
    numbers = [result.frames, result.width, result.height]
    if isinstance(result, Source):
        numbers += [result.spacing, result.size_in_bytes]
        texts = [result.digest]
    else:
        texts = [result.reason, result.detail]
    least = 1 if isinstance(result, Source) else 0
    return (
        (result.name, result.kind) == (candidate.name, candidate.kind)
        and all(type(number) is int and number >= least for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and type(result.motion) in (int, float)
        and math.isfinite(result.motion)
        and (isinstance(result, Skipped) or _are_possible(result.starts, result.frames))
    )


def _are_possible(starts: tuple[tuple[int, int], ...], frames: int) -> bool:
    """Whether these are ranges of frames that a scan gives."""
    right_types = all(type(number) is int for pair in starts for number in pair)
    return bool(starts) and right_types and all(0 <= first < end <= frames for first, end in starts)


def key(candidate: Candidate, limits: tuple[object, ...]) -> str | None:
    """Identifies the content of a source, the reader and the settings; None if the source's files can't be listed.

    Args:
        candidate: the source.
        limits: settings of `svdjax.data.motion.measure_source`.
    """
    try:
        files = [("", os.stat(candidate.path))]
        if candidate.kind == "frames":
            with os.scandir(candidate.path) as entries:
                files += sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
    except OSError:
        return None
    states = [[name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in files]
    return fingerprint([candidate.path, candidate.name, candidate.kind, states, limits, _code()])


def read(path: Path) -> ScanRecords:
    """The records in a file; none if it is missing or damaged."""
    try:
        known = json.loads(path.read_bytes())["records"]
        return ScanRecords(known if isinstance(known, dict) else {})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ScanRecords()


def write(records: ScanRecords, path: Path) -> None:
    """Write the records of this scan.

    Raises:
        InputError: they can't be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(json.dumps({"records": records.found}))


@functools.cache
def _code() -> str:
    """Identifies the code that reads sources: this project's modules, and the versions of the packages that decode."""
    code = hashlib.sha256()
    for folder in ("data", "media"):
        for path in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            code.update(path.read_bytes())
    for package in _PACKAGES:
        try:
            code.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            code.update(package.encode())
    return code.hexdigest()
