"""Bootstrap confidence intervals of a statistic over pairs of keyframes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

SEED = 0
RESAMPLES = 1000

Statistic = Callable[[np.ndarray], float]  # called with indices of pairs, (n,); an index may be repeated


def interval(statistic: Statistic, groups: Sequence[np.ndarray], resamples: int, biased: bool) -> tuple[float, float]:
    """A 95 % bootstrap interval (Efron and Tibshirani 1993, chapters 13 and 10). The resamples have a fixed seed.

    Args:
        statistic: function of pair indices.
        groups: indices of pairs. Pairs of one group are dependent, such as clips of one video; a group is resampled as a whole.
        resamples: number of resamples.
        biased: whether repeated pairs change the statistic, as with the Frechet distance. The interval is then mirrored
            about the statistic of all pairs.
    """
    rng = np.random.default_rng(SEED)
    values = [
        statistic(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])) for _ in range(resamples)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    if biased:
        twice = 2 * statistic(np.concatenate(list(groups)))
        low, high = twice - high, twice - low
    return float(low), float(high)


def with_interval(
    statistic: Statistic, groups: Sequence[np.ndarray], resamples: int = RESAMPLES, *, biased: bool = False
) -> dict[str, Any]:
    """The statistic of all pairs and its interval, for JSON; see `interval`."""
    everything = np.sort(np.concatenate(list(groups)))
    return {"mean": statistic(everything), "interval": list(interval(statistic, groups, resamples, biased))}


def groups_of(names: Sequence[Hashable]) -> list[np.ndarray]:
    """Indices of pairs grouped by name. If all names are equal, every pair is a group: resampling one group gives no spread."""
    groups = [np.array([i for i, other in enumerate(names) if other == name]) for name in dict.fromkeys(names)]
    return groups if len(groups) > 1 else [np.array([i]) for i in range(len(names))]
