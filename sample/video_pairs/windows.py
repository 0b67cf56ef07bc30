"""Choice of clips from videos: windows that don't overlap, spread over the videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svdjax.data.sources import Clip, DataSettings, Source

_VIDEOS, _WINDOWS = 1, 2  # the second number of a numpy seed, so that the two kinds of draws are independent


def windows(sources: Sequence[Source], settings: DataSettings, seed: int) -> list[Clip]:
    """All windows of the sources that don't overlap, in the order in which an evaluation takes them.

    In each source, windows follow each other as closely as its possible starts allow. One window of every source comes first,
    then a second of every source that has more, and so on: clips of one video are not independent. The order of the sources,
    and of the windows within a source, is drawn from the seed; the first n windows don't depend on how many are taken.
    """
    order = np.random.default_rng([seed, _VIDEOS]).permutation(len(sources))
    queues = []
    for number in order:
        starts = _starts(sources[number], settings.span)
        shuffled = np.random.default_rng([seed, _WINDOWS, number]).permutation(starts)
        queues.append([Clip(sources[number], int(start), settings.num_frames, settings.stride) for start in shuffled])
    rounds = max(map(len, queues), default=0)
    return [queue[i] for i in range(rounds) for queue in queues if i < len(queue)]


def _starts(source: Source, span: int) -> list[int]:
    """Starts of windows of `span` frames that don't overlap, as many as possible."""
    chosen: list[int] = []
    free = 0  # the first frame after the last window
    for first, end in source.starts:
        starts = range(max(first, free), end, span)
        chosen += starts
        free = starts[-1] + span if starts else free
    return chosen
