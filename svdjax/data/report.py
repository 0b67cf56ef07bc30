"""Report of a scan: a few lines for the terminal, and a table of all sources."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

from svdjax.data.motion import Skipped
from svdjax.data.scan import ScanResult
from svdjax.data.sources import DataSettings
from svdjax.media.fit import describe_fit
from svdjax.runtime.atomic import new_file

_NAMED = 3  # sources named in a line; the others are counted
COLUMNS = ("name", "kind", "frames", "width", "height", "motion", "clips", "used", "reason")


def summary(result: ScanResult, settings: DataSettings) -> list[str]:
    """Lines on the training data, how frames are fitted, and which sources were skipped for which reason."""
    used = result.usable
    frames, clips = sum(source.frames for source in used), sum(source.clips for source in used)
    lines = [
        f"data: {_count(len(used), 'source')} in {settings.folder}, {frames} frames, {_count(clips, 'clip')} of "
        f"{settings.num_frames} frames at stride {settings.stride}, motion {min(s.motion for s in used):.1f} to "
        f"{max(s.motion for s in used):.1f}"
    ]
    if result.held_out:
        lines.append(f"held out: {_some([source.name for source in result.held_out])}")
    fitted = [describe_fit(s.name, (s.height, s.width), settings.size, settings.fit) for s in used]
    changed = [line for line in fitted if line]
    if changed:
        lines.append(f"fit: {len(changed)} of {_count(len(used), 'source')} change, such as {changed[0]}")
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for item in result.skipped:
        by_reason[item.reason].append(item)
    for reason, items in by_reason.items():
        lines.append(f"skipped {len(items)}, {reason}: {_some([f'{item.name} ({item.detail})' for item in items])}")
    if result.ignored:
        lines.append(f"ignored {_count(result.ignored, 'file')} of other types")
    return lines


def write_csv(result: ScanResult, path: str | os.PathLike[str]) -> None:
    """Write the table, one row per source: used, then held out, then skipped. An older table is replaced only at the end.

    Raises:
        InputError: it can't be written.
    """
    rows = [
        [s.name, s.kind, s.frames, s.width, s.height, s.motion, s.clips, used, ""]
        for used, sources in (("training", result.usable), ("held out", result.held_out))
        for s in sources
    ]
    rows += [
        [s.name, s.kind, s.frames, s.width, s.height, s.motion, 0, "skipped", f"{s.reason}: {s.detail}"] for s in result.skipped
    ]
    # File names that aren't valid Unicode are written with their original bytes.
    with new_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
