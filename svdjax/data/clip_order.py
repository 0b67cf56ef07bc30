"""The order of training clips: a function of the seed and the position only."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from svdjax.data.sources import Clip, DataSettings, Source
from svdjax.errors import InputError

# The second number of a numpy seed, so that the two kinds of draws are independent. Both are nonzero and all seeds have three
# numbers, because numpy ignores zeros at the end of a seed.
_EPOCH, _START = 1, 2


class Order:
    """The endless sequence of training clips.

    Positions count from 0 over all hosts: row r of step s (from 1) has position (s - 1) * B + r with batch size B. An epoch
    is `len(sources)` positions and contains each source once, in an order drawn from (seed, epoch). The clip within the source
    is drawn from (seed, position), uniformly over the source's clips.

    Args:
        sources: to draw from, `ScanResult.usable`.
        settings: frames and stride of a clip.
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
        """The clip at a position, which counts from 0."""
        epoch, index = divmod(position, len(self.sources))
        source = self.sources[_permutation(self.seed, epoch, len(self.sources))[index]]
        number = np.random.default_rng([self.seed, _START, position]).integers(source.clips)
        return Clip(source, source.start(int(number)), self.settings.num_frames, self.settings.stride)

    def clips(self, step: int, batch_size: int, rows: Sequence[int]) -> list[Clip]:
        """The clips in the given rows of a step's global batch; steps count from 1."""
        return [self.clip((step - 1) * batch_size + row) for row in rows]


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, _EPOCH, epoch]).permutation(count)
