"""Statistics of a method's clips as functions of the pairs, and their bootstrap resamples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from sample.evaluation import bootstrap, frechet

FRECHET_RESAMPLES = 200  # fewer than for means, because a distance takes longer
COMPONENTS = 400  # features beyond this number are reduced to as many principal components for resampling
BLOCK = 8192  # rows of features that are in memory as float64


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


class Features(Protocol):
    """Features of clips: the number of a pair gives the rows of its clip, (m, c). An array (n, m, c), or a reader of files."""

    def __getitem__(self, pair: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class FrechetDistance:
    """Frechet distance over pairs.

    Features are read in blocks: those of FID for 5,000 clips of 25 frames take 1 GB a set, and twice that as float64.

    Attributes:
        truth, generated: features; those of pairs without a clip are not read.
        present: whether each pair has a clip, (n,).
        captured: share of the variance that the features hold, below 1 after `for_resampling`.
    """

    truth: Features
    generated: Features
    present: np.ndarray
    captured: float = 1.0
    resamples: int = field(default=FRECHET_RESAMPLES, init=False)
    biased: bool = field(default=True, init=False)

    def __call__(self, pairs: np.ndarray) -> float:
        counts = np.bincount(pairs, minlength=len(self.present))
        rows, features = self.truth[int(pairs[0])].shape
        if rows * np.count_nonzero(counts) < features:
            (first, weights), (second, _) = (next(_blocks(x, counts, features)) for x in (self.truth, self.generated))
            return frechet.distance(first, second, weights)
        whole = np.array_equal(counts, self.present)
        return frechet.distance_of_moments(*(self._whole if whole else self._moments(counts)))

    @cached_property
    def for_resampling(self) -> FrechetDistance:
        """The same distance, of at most `COMPONENTS` principal components of both sets: 200 resamples stay affordable."""
        example = self.truth[int(self.present.argmax())]
        (rows, features), components, captured = example.shape, None, 1.0
        if features > COMPONENTS:
            components, captured = frechet.leading_components(self._whole, COMPONENTS)
            components = components.astype(example.dtype)
        elif isinstance(self.truth, np.ndarray):
            return self
        held = []
        for source in (self.truth, self.generated):
            held.append(np.zeros((len(self.present), rows, min(features, COMPONENTS)), example.dtype))
            for i in np.flatnonzero(self.present).tolist():
                held[-1][i] = source[i] if components is None else source[i] @ components
        return FrechetDistance(truth=held[0], generated=held[1], present=self.present, captured=captured)

    @cached_property
    def _whole(self) -> list[frechet.Moments]:
        """Moments of both sets over the pairs that are present."""
        return self._moments(self.present)

    def _moments(self, counts: np.ndarray) -> list[frechet.Moments]:
        return [frechet.moments(_blocks(x, counts, BLOCK)) for x in (self.truth, self.generated)]


def _blocks(features: Features, counts: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features of clips, about `rows` rows at a time, (r, c), and how often each row counts, (r,).

    Args:
        features: of all pairs.
        counts: how often each pair counts, (n,).
        rows: of a block.
    """
    chosen = np.flatnonzero(counts)
    each = len(features[int(chosen[0])])
    size = max(1, rows // each)
    for start in range(0, len(chosen), size):
        some = chosen[start : start + size]
        yield np.concatenate([features[i] for i in some.tolist()]), np.repeat(counts[some].astype(float), each)


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
