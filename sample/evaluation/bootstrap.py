"""Bootstrap intervals: how far a figure would move had other pairs been drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SEED = 0
RESAMPLES = 1000

Statistic = Callable[[np.ndarray], float]  # of the numbers of pairs, (n,), with repetitions


def interval(statistic: Statistic, groups: Sequence[np.ndarray], resamples: int, biased: bool) -> tuple[float, float]:
    """A 95 % interval of a statistic (Efron and Tibshirani 1993, chapters 13 and 10); the same resamples for every method.

    Args:
        statistic: of pairs.
        groups: numbers of the pairs that belong together, such as clips of one video, which are drawn together.
        resamples: how many.
        biased: for statistics that repeated pairs shift, as they do the Frechet distance: the interval is mirrored about the
            statistic of all pairs.
    """
    rng = np.random.default_rng(SEED)
    values = [
        statistic(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])) for _ in range(resamples)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    if biased:
        whole = 2 * statistic(np.concatenate(list(groups)))
        low, high = whole - high, whole - low
    return float(low), float(high)


def with_interval(
    statistic: Statistic, groups: Sequence[np.ndarray], resamples: int = RESAMPLES, *, biased: bool = False
) -> dict[str, Any]:
    """The statistic of all pairs and its interval, for JSON."""
    everything = np.sort(np.concatenate(list(groups)))
    return {"mean": statistic(everything), "interval": list(interval(statistic, groups, resamples, biased))}


def groups_of(names: Sequence[str]) -> list[np.ndarray]:
    """Numbers of pairs by the name that they share. Where all share one, each is a group: one group tells nothing."""
    groups = [np.array([i for i, other in enumerate(names) if other == name]) for name in dict.fromkeys(names)]
    return groups if len(groups) > 1 else [np.array([i]) for i in range(len(names))]
