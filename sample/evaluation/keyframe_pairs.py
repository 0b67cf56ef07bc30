"""Pairs of keyframes with known frames between them: test clips of the embedded world, or clips of a folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sample.video_pairs import manifest
from sample.video_pairs.cut_list import CutRule
from sample.video_pairs.manifest import Manifest, Row
from sample.video_pairs.windows import windows
from svdjax.data.report import summary
from svdjax.data.scan import scan
from svdjax.data.scan_records import ScanRecords
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from svdjax.world.drawing import render
from svdjax.world.scene import FRAMES, SIZE, VERSION, Scene, scene

SPLIT = "test"  # training never reads it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A clip; the methods get its first and last frames.

    Attributes:
        name: name of its folders, a number.
        title: title in `results.json` and on the contact sheet.
        group: the video that the clip comes from; pairs of one group are not independent.
        read: function that returns the clip, uint8 (f, H, W, 3).
        clip: where a clip of a folder comes from.
        scene: the clip's scene in the embedded world, None for other clips.
    """

    name: str
    title: str
    group: str
    read: Callable[[], np.ndarray]
    clip: Clip | None = None
    scene: Scene | None = None

    @property
    def origin(self) -> str | None:
        """Video, frames and content of a clip of a folder."""
        return None if self.clip is None else f"{self.clip.name}, SHA-256 {self.clip.source.digest[:16]}"


@dataclass(frozen=True)
class Pairs:
    """Pairs, and the facts that identify them, for JSON."""

    pairs: list[Pair]
    identity: dict[str, Any]


def of_world(count: int, first: int = 0) -> Pairs:
    """Clips `first`, `first + 1`, ... of the embedded world's test split."""
    pairs = []
    for number in range(first, first + count):
        clip = scene(SPLIT, number)
        title = f"{SPLIT} {number}: {clip.kind}"
        read = functools.partial(render, clip)
        pairs.append(Pair(name=f"{number:04d}", title=title, group=title, read=read, scene=clip))
    return Pairs(pairs, {"data": "the embedded world", "version": VERSION, "split": SPLIT})


def of_folder(
    settings: DataSettings, count: int, seed: int, cuts: CutRule, workers: int = 0, records: ScanRecords | None = None
) -> Pairs:
    """Windows of videos or folders of frames that don't overlap; see `sample.video_pairs.windows`.

    Args:
        settings: the folder, and the properties of a clip.
        count: number of pairs.
        seed: of the choice.
        cuts: scene cuts; no window crosses one.
        workers, records: see `scan`.

    Raises:
        InputError: the folder has no usable clips, or fewer than `count`.
    """
    scanned = scan(settings, workers, records=records, cuts=cuts.cuts)
    for line in summary(scanned, settings)[1:]:  # how frames are fitted, and which videos are left out
        print(line, flush=True)
    unknown = sorted(set(cuts.videos) - {video.name for video in (*scanned.usable, *scanned.skipped)})
    if unknown:
        print(f"--cuts: {len(unknown)} videos of the list are not in {settings.folder}, such as {unknown[0]}", flush=True)
    usable = scanned.usable
    clips = windows(usable, settings, seed)
    if len(clips) < count:
        raise InputError(
            f"--pairs {count}: {settings.folder} has {len(clips)} clip{'s' * (len(clips) != 1)} of {settings.num_frames} "
            f"frames at stride {settings.stride} that don't overlap, in {len(usable)} video{'s' * (len(usable) != 1)}"
        )
    return _of_clips({f"{number:04d}": clip for number, clip in enumerate(clips[:count])}, settings, {})


def of_manifest(settings: DataSettings, count: int, given: Manifest) -> Pairs:
    """The first pairs of a manifest.

    Raises:
        InputError: a video is missing.
    """
    return _of_clips(manifest.clips(given, Path(settings.folder), count), settings, given.rows)


def _of_clips(clips: Mapping[str, Clip], settings: DataSettings, rows: Mapping[str, Row]) -> Pairs:
    pairs = [
        Pair(
            name=name,
            title=clip.name,
            group=clip.source.name,
            read=functools.partial(manifest.read_checked, clip, settings, rows.get(name)),
            clip=clip,
        )
        for name, clip in clips.items()
    ]
    return Pairs(pairs, {"stride": settings.stride, "fit": settings.fit})


def check_world_shape(num_frames: int, size: tuple[int, int]) -> None:
    """Refuse another number of frames or another size, (width, height), than the embedded world's."""
    if (num_frames, size) != (FRAMES, (SIZE, SIZE)):
        requested = f"{num_frames} frames of {size[0]}x{size[1]}"
        raise InputError(f"the embedded world has {FRAMES} frames of {SIZE}x{SIZE}, not {requested}: give --data DIR")
