"""Bootstrap intervals: how far a figure would move had other pairs been drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SEED = 0


def interval(statistic: Callable[[np.ndarray], float], count: int, resamples: int = 1000) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a statistic over resampled pairs (Efron 1979); the same pairs for every method.

    Args:
        statistic: of the numbers of pairs, (count,), with repetitions.
        count: of pairs.
        resamples: how many.
    """
    rng = np.random.default_rng(SEED)
    values = [statistic(rng.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def of_mean(values: np.ndarray) -> dict[str, float | list[float]]:
    """Mean over pairs and its interval."""
    return {"mean": float(values.mean()), "interval": list(interval(lambda i: float(values[i].mean()), len(values)))}
