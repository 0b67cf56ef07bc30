"""The manifest of an evaluation: a CSV file from which others cut exactly the same pairs from their copies of the videos.

Hashes are of the pixels after decoding and fitting to the size of the pairs, because these pixels are what methods get and what
is compared: equal hashes exclude every difference of the file, the decoder and the resize. The video's own hash then says
whether a difference is due to another file.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from svdjax.data.discover import find_sources
from svdjax.data.readers import read_clip, reader
from svdjax.data.sources import Clip, DataSettings, Source, check_folder
from svdjax.errors import InputError
from svdjax.media.fit import FITS
from svdjax.runtime.atomic import new_file

_HASHES = ("first_sha256", "last_sha256", "clip_sha256")
_VIDEO = ("video_sha256", "video_frames", "video_width", "video_height")
_SHARED = ("gap", "stride", "width", "height", "fit")  # the same in all rows
COLUMNS = ("pair", "video", "start", *_SHARED, *_HASHES, *_VIDEO, "cuts", "min_motion", "decoder")
_NUMBERS = {"start": 0, "gap": 2, "stride": 1, "width": 1, "height": 1, "video_frames": 3, "video_width": 1, "video_height": 1}
_NAME = re.compile(r"\d{4,9}", re.ASCII)  # of a pair; its number is added to the sampler's seed

Row = Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A manifest, checked.

    Attributes:
        path: its file.
        rows: by the names of the pairs.
    """

    path: Path
    rows: dict[str, Row]

    @property
    def gap(self) -> int:
        return int(self._shared("gap"))

    @property
    def stride(self) -> int:
        return int(self._shared("stride"))

    @property
    def fit(self) -> str:
        return self._shared("fit")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self._shared("width")), int(self._shared("height"))

    def _shared(self, name: str) -> str:
        return next(iter(self.rows.values()))[name]


def read(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        InputError: it can't be read, isn't a manifest, or its rows differ in gap, stride, size or fit.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(f"--manifest {path}: lacks the column {missing[0]}, expected pairs.csv of an evaluation")
            rows = list(table)
    except (OSError, csv.Error) as e:
        raise InputError(f"--manifest {path}: can't be read ({getattr(e, 'strerror', None) or e})") from None
    for line, row in enumerate(rows, 2):
        _check_row(f"--manifest {path}: line {line}", row, rows[0])
    names = [row["pair"] for row in rows]
    if len(set(names)) < len(names) or len(names) < 2:
        raise InputError(f"--manifest {path}: has {len(set(names))} different pairs in {len(names)} rows, expected at least 2")
    return Manifest(path, dict(zip(names, rows, strict=True)))


def _check_row(line: str, row: Row, first: Row) -> None:
    for name in COLUMNS:
        if not isinstance(row[name], str):
            raise InputError(f"{line}: has too few values, expected {len(COLUMNS)}")
    for name, least in _NUMBERS.items():
        if not re.fullmatch(r"\d{1,9}", row[name], re.ASCII) or int(row[name]) < least:
            raise InputError(f"{line}: {name} is {row[name]!r}, expected a number of at least {least}")
    for name in (*_HASHES, "video_sha256"):
        if not re.fullmatch("[0-9a-f]{64}", row[name]):
            raise InputError(f"{line}: {name} is {row[name]!r}, expected 64 hexadecimal digits")
    if not _NAME.fullmatch(row["pair"]):
        raise InputError(f"{line}: pair is {row['pair']!r}, expected a number with four digits or more")
    if row["fit"] not in FITS:
        raise InputError(f"{line}: fit is {row['fit']!r}, expected one of {', '.join(FITS)}")
    for name in _SHARED:
        if row[name] != first[name]:
            raise InputError(f"{line}: {name} is {row[name]}, expected {first[name]} as in the first row")


def clips(manifest: Manifest, folder: Path, count: int) -> dict[str, Clip]:
    """The first `count` clips of a manifest by the names of the pairs, from videos in `folder`. No video is read.

    Raises:
        InputError: a video is missing.
    """
    found = {candidate.name: candidate for candidate in find_sources(check_folder(folder))[0]}
    chosen: dict[str, Clip] = {}
    for name, row in list(manifest.rows.items())[:count]:
        candidate = found.get(row["video"])
        if candidate is None:
            raise InputError(f"{folder}: has no {row['video']}, expected it for pair {name} of {manifest.path}")
        start = int(row["start"])
        source = Source(
            name=candidate.name,
            path=candidate.path,
            kind=candidate.kind,
            frames=int(row["video_frames"]),
            width=int(row["video_width"]),
            height=int(row["video_height"]),
            motion=0.0,
            starts=((start, start + 1),),
            size_in_bytes=0,
            digest=row["video_sha256"],
        )
        chosen[name] = Clip(source, start, manifest.gap + 1, manifest.stride)
    return chosen


def read_checked(clip: Clip, settings: DataSettings, row: Row | None) -> np.ndarray:
    """The frames of a clip, uint8 (f, H, W, 3); with a row of a manifest they must have its hashes.

    Raises:
        InputError: other pixels than the manifest's, with the likely reason.
    """
    frames = read_clip(clip.source, clip.start, clip.num_frames, clip.stride, settings.size, settings.fit)
    if row is not None and hashes(frames) != {name: row[name] for name in _HASHES}:
        digest = reader(clip.source.kind).digest(clip.source.path)[1]
        reason = f"decoded with {decoder()}, the manifest with {row['decoder']}"
        if digest != row["video_sha256"]:
            reason = f"another file: SHA-256 {digest[:16]}, expected {row['video_sha256'][:16]}"
        raise InputError(f"{clip.source.path}: pair {row['pair']} has other pixels than in the manifest ({reason})")
    return frames


def hashes(frames: np.ndarray) -> dict[str, str]:
    """SHA-256 of the first frame's pixels, the last frame's, and the clip's, uint8 (f, H, W, 3) in C order."""
    parts = (frames[0], frames[-1], frames)
    return {name: hashlib.sha256(part.tobytes()).hexdigest() for name, part in zip(_HASHES, parts, strict=True)}


def decoder() -> str:
    """The packages that decode and resize, with versions."""
    return ", ".join(f"{package} {version(package)}" for package in ("av", "pillow"))


def read_if_any(path: Path) -> dict[str, Row]:
    """The rows of a manifest by the names of the pairs; none if there is no such file, or it is damaged."""
    try:
        return read(path).rows
    except InputError:
        return {}


def is_of(row: Row, clip: Clip) -> bool:
    """Whether a row is of this clip, apart from size and fit."""
    own = (clip.source.name, clip.start, clip.num_frames - 1, clip.stride, clip.source.digest)
    return [row[name] for name in ("video", "start", "gap", "stride", "video_sha256")] == list(map(str, own))


def row(name: str, clip: Clip, settings: DataSettings, cuts: str, pixels: Mapping[str, str]) -> dict[str, str]:
    """A row of the manifest.

    Args:
        name: of the pair.
        clip, settings: where its frames come from.
        cuts: see `CutRule.description`.
        pixels: see `hashes`.
    """
    source = clip.source
    values = (
        *(name, source.name, clip.start, clip.num_frames - 1, clip.stride, *settings.size, settings.fit),
        *pixels.values(),
        *(source.digest, source.frames, source.width, source.height, cuts, f"{settings.min_motion:g}", decoder()),
    )
    return dict(zip(COLUMNS, map(str, values), strict=True))


def write(rows: Iterable[Row], path: Path) -> None:
    """Write a manifest; an older one is replaced only when the new one is complete.

    Raises:
        InputError: it can't be written.
    """
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])
