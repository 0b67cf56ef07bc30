"""Which clip comes when: a function of the seed and the position, and of nothing else."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from svdjax.data.sources import Clip, DataSettings, Source
from svdjax.errors import InputError

# The draws of numpy's generators are told apart by the second number of their seeds. (Zeros at the end of a seed don't
# count there, so neither of these is zero and every seed has three numbers.)
_EPOCH, _START = 1, 2


class Order:
    """The endless order of training clips.

    Positions count from 0 over all hosts: row r of step s, counted from 1, in batches of B has position (s - 1) * B + r.
    Every `len(sources)` positions are an epoch and hold each source once, in an order drawn by (seed, epoch); the clip
    within the source is drawn by (seed, position), evenly over all that fit and move enough.

    Args:
        sources: to draw from, `Found.usable`.
        settings: what a clip is.
        seed: at least 0.

    Raises:
        InputError: a negative seed.
    """

    def __init__(self, sources: Sequence[Source], settings: DataSettings, seed: int):
        if seed < 0:
            raise InputError(f"--seed is {seed}, expected at least 0")
        if not sources:
            raise ValueError("no sources")
        self.sources = tuple(sources)
        self.settings = settings
        self.seed = seed

    def clip(self, position: int) -> Clip:
        """The clip at a position, from 0 on."""
        epoch, place = divmod(position, len(self.sources))
        source = self.sources[_permutation(self.seed, epoch, len(self.sources))[place]]
        number = np.random.default_rng([self.seed, _START, position]).integers(source.clips)
        return Clip(source, source.start(int(number)), self.settings.num_frames, self.settings.stride)

    def clips(self, step: int, batch_size: int, rows: Sequence[int]) -> list[Clip]:
        """The clips of some rows of a step's global batch; steps count from 1."""
        return [self.clip((step - 1) * batch_size + row) for row in rows]


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(count)
