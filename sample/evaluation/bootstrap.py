"""Bootstrap confidence intervals of a statistic over pairs of keyframes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

SEED = 0
RESAMPLES = 1000

Statistic = Callable[[np.ndarray], float]  # called with indices of pairs, (n,); an index may be repeated


def resample(statistic: Statistic, groups: Sequence[np.ndarray], resamples: int = RESAMPLES) -> np.ndarray:
    """The statistic of bootstrap resamples, (resamples,) (Efron and Tibshirani 1993).

    The seed is fixed: two statistics of the same groups get the same resamples, so their values can be subtracted.

    Args:
        statistic: function of pair indices.
        groups: indices of pairs. Pairs of one group are dependent, such as clips of one video; a group is resampled as a whole.
        resamples: number of resamples.
    """
    rng = np.random.default_rng(SEED)
    chosen = (rng.integers(len(groups), size=len(groups)) for _ in range(resamples))
    return np.array([statistic(np.concatenate([groups[i] for i in indices])) for indices in chosen])


def estimate(value: float, resampled: np.ndarray, *, biased: bool = False, reference: float | None = None) -> dict[str, Any]:
    """A statistic with its 95 % interval, for JSON (Efron and Tibshirani 1993, chapters 13 and 10).

    Args:
        value: the statistic of all pairs.
        resampled: the result of `resample`.
        biased: whether repeated pairs change the statistic, as with the Frechet distance. The interval is then mirrored about
            the statistic of all pairs.
        reference: used if biased: value of the resampled function for all pairs, where it only approximates the statistic.
    """
    low, high = np.percentile(resampled, [2.5, 97.5])
    if biased:
        center = value if reference is None else reference
        low, high = value + center - high, value + center - low
    return {"mean": value, "interval": [float(low), float(high)]}


def with_interval(
    statistic: Statistic, groups: Sequence[np.ndarray], resamples: int = RESAMPLES, *, biased: bool = False
) -> dict[str, Any]:
    """The statistic of all pairs and its interval, for JSON; see `resample` and `estimate`."""
    everything = np.sort(np.concatenate(list(groups)))
    return estimate(statistic(everything), resample(statistic, groups, resamples), biased=biased)


def groups_of(names: Sequence[Hashable]) -> list[np.ndarray]:
    """Indices of pairs grouped by name. If all names are equal, every pair is a group: resampling one group gives no spread."""
    groups: dict[Hashable, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return [np.array(group) for group in groups.values()] if len(groups) > 1 else [np.array([i]) for i in range(len(names))]
