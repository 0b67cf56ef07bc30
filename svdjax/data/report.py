"""What a scan found, for people: a few printed lines, and a table of every source."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

from svdjax.data.motion import Skipped
from svdjax.data.scan import Found
from svdjax.data.sources import DataSettings
from svdjax.media.fit import describe_fit
from svdjax.runtime.atomic import new_file

_NAMED = 3  # sources that a line names before it says how many more there are
COLUMNS = ("name", "kind", "frames", "width", "height", "motion", "clips", "used", "reason")


def report(found: Found, settings: DataSettings) -> list[str]:
    """Lines on what is trained on, how it is fitted, and what was skipped for which reason."""
    used = found.usable
    frames, clips = (sum(values) for values in zip(*((s.frames, s.clips) for s in used), strict=True))
    lines = [
        f"data: {_count(len(used), 'source')} in {settings.folder}, {frames} frames, {_count(clips, 'clip')} of "
        f"{settings.num_frames} frames at stride {settings.stride}, motion {min(s.motion for s in used):.1f} to "
        f"{max(s.motion for s in used):.1f}"
    ]
    if found.held_out:
        lines.append(f"held out: {_some([source.name for source in found.held_out])}")
    fitted = [describe_fit(s.name, (s.height, s.width), settings.size, settings.fit) for s in used]
    changed = [line for line in fitted if line]
    if changed:
        lines.append(f"fit: {len(changed)} of {_count(len(used), 'source')} change, such as {changed[0]}")
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for item in found.skipped:
        by_reason[item.reason].append(item)
    for reason, items in by_reason.items():
        lines.append(f"skipped {len(items)}, {reason}: {_some([f'{item.name} ({item.detail})' for item in items])}")
    if found.ignored:
        lines.append(f"ignored {_count(found.ignored, 'file')} that {'is' if found.ignored == 1 else 'are'} no video or image")
    return lines


def write_csv(found: Found, path: str | os.PathLike[str]) -> None:
    """The table, one row a source, sorted as used, held out, skipped; in place of an older one only when it is whole.

    Raises:
        InputError: it can't be written.
    """
    rows = [
        [s.name, s.kind, s.frames, s.width, s.height, s.motion, s.clips, used, ""]
        for used, sources in (("training", found.usable), ("held out", found.held_out))
        for s in sources
    ]
    rows += [
        [s.name, s.kind, s.frames, s.width, s.height, s.motion, 0, "skipped", f"{s.reason}: {s.detail}"] for s in found.skipped
    ]
    # Names that aren't Unicode on this disk are written as they are there.
    with new_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
