"""Scan of the data folder: every source is read once, then used or skipped with a reason."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from svdjax.data import scan_records, world_clips
from svdjax.data.discover import Candidate, find_sources
from svdjax.data.motion import UNREADABLE, Cuts, Skipped, measure_source
from svdjax.data.scan_records import ScanRecords
from svdjax.data.sources import DataSettings, Source, check_folder, fingerprint
from svdjax.data.worker_pool import Workers
from svdjax.errors import InputError, one_line
from svdjax.media import scene_cuts


@dataclass(frozen=True)
class ScanResult:
    """The sources of a data folder, in natural order of their names.

    Attributes:
        usable: for training.
        held_out: usable, but kept for validation.
        skipped: not usable, with the reason.
        ignored: number of unrelated files.
    """

    usable: tuple[Source, ...]
    held_out: tuple[Source, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0

    @property
    def fingerprint(self) -> str:
        """Changes with the sources for training: their names, sizes, frames, content, clips or order."""
        return fingerprint([[source.fingerprint, source.starts] for source in self.usable])

    def to_json(self) -> str:
        """One line for `from_json`. Without paths, so that it is the same on hosts that mount the data elsewhere."""
        fields = dataclasses.asdict(self)
        for source in (*fields["usable"], *fields["held_out"]):
            del source["path"]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str, folder: str | os.PathLike[str]) -> ScanResult:
        """The scan result of another process.

        Args:
            text: from `to_json`.
            folder: path of the data folder in this process.
        """
        fields = json.loads(text)

        def source(values: dict[str, Any]) -> Source:
            starts = tuple((first, end) for first, end in values.pop("starts"))
            name = values["name"]
            path = name if values["kind"] == world_clips.NAME else os.path.abspath(os.path.join(folder, name))
            return Source(path=path, starts=starts, **values)

        return cls(
            usable=tuple(map(source, fields["usable"])),
            held_out=tuple(map(source, fields["held_out"])),
            skipped=tuple(Skipped(**values) for values in fields["skipped"]),
            ignored=fields["ignored"],
        )


def scan(
    settings: DataSettings,
    workers: int = 0,
    *,
    progress: bool = True,
    records: ScanRecords | None = None,
    cuts: Mapping[str, Sequence[int]] | str = MappingProxyType({}),
) -> ScanResult:
    """Read every source of a data folder.

    Args:
        settings: the folder, and the properties of a clip.
        workers: processes that read; 0 reads in this process.
        progress: whether to show a progress bar (only on a terminal).
        records: of an earlier scan; sources that haven't changed since are not read again. Gets the records of this scan.
        cuts: scene cuts by the names of sources, or `scene_cuts.DETECT`; no clip crosses one.

    Raises:
        InputError: the folder doesn't exist, is a file, is empty, or has no usable source, or only held-out ones.
    """
    if world_clips.is_world(settings.folder):
        *train, validation = world_clips.sources(settings)
        return ScanResult(tuple(train), (validation,) if settings.hold_out else ())
    candidates, ignored = find_sources(check_folder(settings.folder))
    if not candidates:
        others = f" ({ignored} other file{'s' * (ignored != 1)})" if ignored else ""
        raise InputError(f"{settings.folder}: no videos and no images in it{others}")
    measured = _measure_all(candidates, settings, workers, progress, records or ScanRecords(), cuts)
    usable = [item for item in measured if isinstance(item, Source)]
    skipped = [item for item in measured if isinstance(item, Skipped)]
    if not usable:
        raise InputError(_nothing_usable(settings, skipped))
    kept = len(usable) - settings.hold_out
    if kept <= 0:
        raise InputError(
            f"--hold-out {settings.hold_out}: {settings.folder} has {len(usable)} usable source{'s' * (len(usable) != 1)}, "
            f"expected at least {settings.hold_out + 1}"
        )
    return ScanResult(tuple(usable[:kept]), tuple(usable[kept:]), tuple(skipped), ignored)


def _measure_all(
    candidates: Sequence[Candidate],
    settings: DataSettings,
    workers: int,
    progress: bool,
    records: ScanRecords,
    cuts: Mapping[str, Sequence[int]] | str,
) -> list[Source | Skipped]:
    limits = (settings.num_frames, settings.stride, settings.min_motion)
    of_sources: list[tuple[Cuts, ...]] = [()] * len(candidates)  # an argument only if there are cuts
    if isinstance(cuts, str):
        of_sources = [(cuts,)] * len(candidates)
    elif cuts:
        of_sources = [(tuple(cuts.get(candidate.name, ())),) for candidate in candidates]
    detector = [scene_cuts.description()] if isinstance(cuts, str) else []
    # Before reading: if a file changes while it is read, its record is not used later.
    keys = [
        scan_records.key(candidate, (*limits, *of_source, *detector))
        for candidate, of_source in zip(candidates, of_sources, strict=True)
    ]
    measured = [records.get(key, candidate) if key else None for key, candidate in zip(keys, candidates, strict=True)]
    missing = [i for i, result in enumerate(measured) if result is None]
    for key, result in zip(keys, measured, strict=True):
        if key and result is not None:
            records.add(key, result)
    with (
        Workers(min(workers, len(missing))) as pool,
        tqdm(total=len(missing), desc="reading data", unit="source", disable=None if progress else True, leave=False) as bar,
    ):
        # Without workers, `submit` reads at once: call it lazily, so that the bar advances. With workers, submit all now.
        submitted = (pool.submit(measure_source, candidates[i], *limits, *of_sources[i]) for i in missing)
        for i, future in zip(missing, list(submitted) if workers else submitted, strict=True):
            measured[i] = result = _result(candidates[i], future)
            if key := keys[i]:
                records.add(key, result)  # now: an interrupted scan keeps its records
            bar.update()
    return [result for result in measured if result is not None]


def _result(candidate: Candidate, future: Future[Source | Skipped]) -> Source | Skipped:
    try:
        return future.result()
    except InputError:  # no worker can be started
        raise
    except Exception as e:  # the worker died, or a fault of the program: one source must not end a run
        return Skipped(name=candidate.name, kind=candidate.kind, reason=UNREADABLE, detail=one_line(e))


def _nothing_usable(settings: DataSettings, skipped: list[Skipped]) -> str:
    """The most frequent reason, with an example."""
    (reason, count), *_ = Counter(item.reason for item in skipped).most_common(1)
    example = next(item for item in skipped if item.reason == reason)
    total = len(skipped)
    share = "it is" if total == 1 else f"{count} are"
    return (
        f"{settings.folder}: {total} video{'s' * (total != 1)} or folder{'s' * (total != 1)} of frames found, none usable: "
        f"{share} {reason}, such as {example.name} ({example.detail})"
    )
