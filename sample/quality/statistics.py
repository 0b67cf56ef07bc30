"""Statistics of a method's clips as functions of the pairs, and their bootstrap resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sample.evaluation import bootstrap, frechet

FRECHET_RESAMPLES = 200  # fewer than for means, because a distance takes longer
COMPONENTS = 400  # features beyond this number are reduced to as many principal components for resampling


@dataclass(frozen=True)
class Mean:
    """Mean of a figure over pairs; `values` holds one value per pair, (n,), NaN where there is none."""

    values: np.ndarray
    resamples: int = bootstrap.RESAMPLES
    biased: bool = False

    def __call__(self, pairs: np.ndarray) -> float:
        return float(self.values[pairs].mean())

    @property
    def present(self) -> np.ndarray:
        """Whether each pair has a value."""
        return np.isfinite(self.values)

    @property
    def for_resampling(self) -> Mean:
        return self


@dataclass(frozen=True, kw_only=True)
class FrechetDistance:
    """Frechet distance over pairs.

    Attributes:
        truth, generated: features, (n, m, c): pairs, rows of features of a clip, features.
        present: whether each pair has a clip, (n,).
        captured: share of the variance that the features hold, below 1 after `for_resampling`.
    """

    truth: np.ndarray
    generated: np.ndarray
    present: np.ndarray
    captured: float = 1.0
    resamples: int = field(default=FRECHET_RESAMPLES, init=False)
    biased: bool = field(default=True, init=False)

    def __call__(self, pairs: np.ndarray) -> float:
        counts = np.bincount(pairs, minlength=len(self.truth)).astype(float)
        chosen = counts > 0
        first, second = (x[chosen].reshape(-1, x.shape[-1]) for x in (self.truth, self.generated))
        return frechet.distance(first, second, np.repeat(counts[chosen], self.truth.shape[1]))

    @property
    def for_resampling(self) -> FrechetDistance:
        """The same distance, of at most `COMPONENTS` principal components of both sets: 200 resamples stay affordable."""
        if self.truth.shape[-1] <= COMPONENTS:
            return self
        sets = [x[self.present].reshape(-1, x.shape[-1]) for x in (self.truth, self.generated)]
        components, captured = frechet.leading_components(sets, COMPONENTS)
        truth, generated = (x @ components.astype(np.float32) for x in (self.truth, self.generated))
        return FrechetDistance(truth=truth, generated=generated, present=self.present, captured=captured)


FigureStatistic = Mean | FrechetDistance


@dataclass(frozen=True)
class Resampled:
    """A statistic of some pairs, and of their resamples.

    Attributes:
        value: of all pairs.
        reference: of all pairs, by the function that was resampled.
        values: of the resamples, (r,).
        captured: see `FrechetDistance`.
    """

    value: float
    reference: float
    values: np.ndarray
    captured: float = 1.0


def resample(statistic: FigureStatistic, groups: Sequence[np.ndarray]) -> Resampled:
    """Resample a statistic over groups of pairs; see `bootstrap.resample`."""
    everything = np.sort(np.concatenate(list(groups)))
    reduced = statistic.for_resampling
    value = statistic(everything)
    reference = value if reduced is statistic else reduced(everything)
    captured = reduced.captured if isinstance(reduced, FrechetDistance) else 1.0
    return Resampled(value, reference, bootstrap.resample(reduced, groups, statistic.resamples), captured)


def groups_among(names: Sequence[str], present: np.ndarray) -> list[np.ndarray]:
    """Indices of the pairs that are present, grouped by name; see `bootstrap.groups_of`.

    Args:
        names: the group of each pair.
        present: whether each pair counts, (n,).
    """
    kept = np.flatnonzero(present)
    return [kept[group] for group in bootstrap.groups_of([names[i] for i in kept.tolist()])]
