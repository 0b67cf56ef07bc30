"""Figures of all methods with confidence intervals, and what each figure is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from sample.evaluation import bootstrap, frechet
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.options import EvaluationRequest
from sample.quality import catalog, statistics
from sample.quality.measured import Measured
from sample.quality.statistics import FigureStatistic, FrechetDistance, Mean, Resampled
from svdjax.version import __version__


def summarise(request: EvaluationRequest, pairs: Sequence[Pair], values: Measured) -> dict[str, Any]:
    """For each method: every figure's mean, 95 % interval and per-pair values, and the distances to the truth.

    Methods other than the reference also have the `difference` of each figure from the reference's on the pairs that both
    have, with its interval. Pairs differ from each other more than methods do, so this interval is narrower than those of the
    means suggest. `pairs` is the number of pairs behind a mean or a difference: a method may lack clips, and a figure may be
    undefined for a clip.

    Args:
        request: the command line.
        pairs: all pairs of the evaluation.
        values: the result of `sample.quality.measured.measure`.
    """
    methods: dict[str, Any] = {method: {} for method in request.methods}
    reference = request.reference
    order = (reference, *(method for method in request.methods if method != reference))
    tasks = [(name, method) for name in values.names for method in order]
    progress = tqdm(tasks, desc="intervals", unit="figure", leave=False, file=sys.stderr)
    groups = [pair.group for pair in pairs]
    compared: _Summary | None = None
    for name, method in progress:
        summary = _Summary(_statistic(values, method, pairs, name), groups)
        if method == reference:
            compared = summary
        methods[method][name] = summary.to_json(None if method == reference else compared)
    fewest = {name: min(found[name]["pairs"] for found in methods.values()) for name in values.names}
    warnings = [text for name in values.names for text in catalog.warnings(name, describe(request, name, fewest[name]))]
    return {
        "encoder": frechet.ENCODER,
        "videos": len(set(groups)),
        "independent_groups": len(bootstrap.groups_of(groups)),
        "figures": {name: describe(request, name, len(pairs)) for name in values.names},
        "warnings": warnings,  # for the method with the fewest clips
        "left_out": request.figures.left_out,
        "svdjax": __version__,
        "reference": reference,
        "methods": methods,
    }


def describe(request: EvaluationRequest, name: str, clips: int) -> dict[str, Any]:
    """What a figure of the results is; see `catalog.describe`."""
    frames, height, width = request.shape
    return catalog.describe(name, request.figures, clips=clips, num_frames=frames, size=(width, height))


def _statistic(values: Measured, method: str, pairs: Sequence[Pair], name: str) -> FigureStatistic:
    if catalog.FIGURES[name].table != catalog.SETS:
        found = [values.value(method, pair, name) for pair in pairs]
        return Mean(np.array([np.nan if value is None else float(value) for value in found]))
    return FrechetDistance(
        truth=_SavedFeatures(values, TRUTH, pairs, name),
        generated=_SavedFeatures(values, method, pairs, name),
        present=np.array([values.has(method, pair) for pair in pairs]),
    )


@dataclass(frozen=True)
class _SavedFeatures:
    """Features of a method's clips, read from the clip's file at each use."""

    values: Measured
    method: str
    pairs: Sequence[Pair]
    name: str

    def __getitem__(self, pair: int) -> np.ndarray:
        found = self.values.value(self.method, self.pairs[pair], self.name)
        assert found is not None
        return found


class _Summary:
    """A figure of a method with its resamples; those of all its pairs are kept for differences."""

    def __init__(self, statistic: FigureStatistic, groups: Sequence[str]):
        self.statistic, self.groups = statistic, groups
        self.own = self.over(statistic.present)

    def over(self, present: np.ndarray) -> Resampled | None:
        """The figure over some pairs; None for fewer than two."""
        if present.sum() < 2:
            return None
        return statistics.resample(self.statistic, statistics.groups_among(self.groups, present))

    def to_json(self, other: _Summary | None = None) -> dict[str, Any]:
        """The figure, and its difference from another method's."""
        present, biased = self.statistic.present, self.statistic.biased
        found: dict[str, Any] = {"mean": None, "interval": None}
        if self.own is not None:
            found = bootstrap.estimate(self.own.value, self.own.values, biased=biased, reference=self.own.reference)
        if biased and self.own is not None:  # a mirrored interval can go below 0, a distance can't
            found["interval"] = [max(0.0, bound) for bound in found["interval"]]
        found["pairs"] = int(present.sum())
        if isinstance(self.statistic, Mean):
            found["by_pair"] = [float(value) if ok else None for value, ok in zip(self.statistic.values, present, strict=True)]
        elif self.own is not None and self.own.captured < 1:
            found |= {"interval_components": statistics.COMPONENTS, "interval_variance": self.own.captured}
        if other is not None and (common := present & other.statistic.present).sum() >= 2:
            mine, its = (s.own if (s.statistic.present == common).all() else s.over(common) for s in (self, other))
            assert mine is not None
            assert its is not None
            found["difference"] = bootstrap.estimate(
                mine.value - its.value, mine.values - its.values, biased=biased, reference=mine.reference - its.reference
            ) | {"pairs": int(common.sum())}
        return found
