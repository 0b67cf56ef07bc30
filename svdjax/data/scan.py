"""The data folder as training sees it: every source read once, used or skipped with a reason."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from svdjax.data import world_clips
from svdjax.data.discover import Place, find
from svdjax.data.motion import UNREADABLE, Skipped, measure
from svdjax.data.sources import DataSettings, Source, check_folder, fingerprint
from svdjax.data.worker_pool import WorkerDied, Workers
from svdjax.errors import InputError
from svdjax.media.image_pixels import one_line


@dataclass(frozen=True)
class Found:
    """What a scan found. Sources are in natural order of their names.

    Attributes:
        usable: to train on.
        held_out: usable, but kept out of training for validation.
        skipped: not usable, and why.
        ignored: how many files were passed over as unrelated.
    """

    usable: tuple[Source, ...]
    held_out: tuple[Source, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0

    @property
    def fingerprint(self) -> str:
        """Changes when the sources trained on do: their names, sizes, frames, content, clips or order."""
        return fingerprint([[source.fingerprint, source.starts] for source in self.usable])

    def to_json(self) -> str:
        """One line that `from_json` reads; without paths, so that it is the same on hosts that mount the data elsewhere."""
        fields = dataclasses.asdict(self)
        for source in (*fields["usable"], *fields["held_out"]):
            del source["path"]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str, folder: str | os.PathLike[str]) -> Found:
        """The result of another process's scan.

        Args:
            text: from `to_json`.
            folder: the data folder, as this process sees it.
        """
        fields = json.loads(text)

        def source(values: dict[str, Any]) -> Source:
            starts = tuple((first, end) for first, end in values.pop("starts"))
            path = os.path.abspath(os.path.join(folder, values["name"]))
            return Source(path=path, starts=starts, **values)

        return cls(
            usable=tuple(map(source, fields["usable"])),
            held_out=tuple(map(source, fields["held_out"])),
            skipped=tuple(Skipped(**values) for values in fields["skipped"]),
            ignored=fields["ignored"],
        )


def scan(settings: DataSettings, workers: int = 0, *, progress: bool = True) -> Found:
    """Read every source of a data folder.

    Args:
        settings: the folder, and what a clip is.
        workers: processes that read; 0 reads in this one.
        progress: whether a bar shows it (only on a terminal).

    Raises:
        InputError: the folder is missing, empty or no folder; or nothing in it can be used; or holding out leaves nothing.
    """
    if world_clips.is_meant(settings.folder):
        *train, validation = world_clips.sources(settings)
        return Found(tuple(train), (validation,) if settings.hold_out else ())
    folder = check_folder(settings.folder)
    places, ignored = find(folder)
    if not places:
        others = f" ({ignored} other file{'s' * (ignored != 1)})" if ignored else ""
        raise InputError(f"{settings.folder}: no videos and no images in it{others}")
    found: list[Source | Skipped] = []
    with (
        Workers(min(workers, len(places))) as pool,
        tqdm(total=len(places), desc="reading data", unit="source", disable=None if progress else True, leave=False) as bar,
    ):
        # Without workers each is read when its turn comes, so that the bar moves; with them all are asked for at once.
        asked = (pool.submit(measure, place, settings.num_frames, settings.stride, settings.min_motion) for place in places)
        for place, future in zip(places, list(asked) if workers else asked, strict=True):
            found.append(_result(place, future))
            bar.update()
    usable = [item for item in found if isinstance(item, Source)]
    skipped = [item for item in found if isinstance(item, Skipped)]
    if not usable:
        raise InputError(_nothing_usable(settings, skipped))
    if len(usable) <= settings.hold_out:
        raise InputError(
            f"--hold-out {settings.hold_out}: {settings.folder} has {len(usable)} usable, none is left to train on"
        )
    kept = len(usable) - settings.hold_out
    return Found(tuple(usable[:kept]), tuple(usable[kept:]), tuple(skipped), ignored)


def _result(place: Place, future: Any) -> Source | Skipped:
    try:
        return future.result()
    except WorkerDied as e:
        return Skipped(place.name, place.kind, UNREADABLE, one_line(e))


def _nothing_usable(settings: DataSettings, skipped: list[Skipped]) -> str:
    (reason, count), *_ = Counter(item.reason for item in skipped).most_common(1)
    example = next(item for item in skipped if item.reason == reason)
    total = len(skipped)
    share = "it is" if total == 1 else f"{count} are"
    return (
        f"{settings.folder}: {total} video{'s' * (total != 1)} or folder{'s' * (total != 1)} of frames found, none usable: "
        f"{share} {reason}, such as {example.name} ({example.detail})"
    )
