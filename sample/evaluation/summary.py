"""Metrics of all clips, and their means with confidence intervals."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sample.evaluation import bootstrap, clip_folders, frechet, metrics
from sample.evaluation.bootstrap import Statistic
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.options import EvaluationRequest
from sample.evaluation.run_folder import read_clip
from svdjax.world.scene import Scene

FRECHET = "frechet"
_FRECHET_RESAMPLES = 200  # fewer than for means, because a distance takes longer

ClipMetrics = dict[str, float]  # name of the metric -> value


def measure(request: EvaluationRequest, pairs: Sequence[Pair]) -> dict[str, list[ClipMetrics]]:
    """Metrics of each method's clips, in the order of the pairs."""
    rows: dict[str, list[ClipMetrics]] = {method: [] for method in request.methods}
    jobs = [
        (method, request.out / TRUTH / pair.name, request.out / method / pair.name, request.shape, pair.scene)
        for method in request.methods
        for pair in pairs
    ]
    context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads can hang
    with (
        ProcessPoolExecutor(request.workers, context) as pool,
        tqdm(total=len(jobs), desc="measuring", unit="clip", file=sys.stderr) as bar,
    ):
        names, *columns = zip(*jobs, strict=True)
        for name, values in zip(names, pool.map(_clip_metrics, *columns, chunksize=4), strict=True):
            rows[name].append(values)
            bar.update()
    return rows


def _clip_metrics(truth: Path, folder: Path, shape: clip_folders.Shape, scene: Scene | None) -> ClipMetrics:
    return metrics.clip_metrics(clip_folders.read(truth, shape), clip_folders.read(folder, shape), scene)


@dataclass(frozen=True)
class Mean:
    """Mean of a metric over pairs; `values` holds one value per pair."""

    values: np.ndarray

    def __call__(self, pairs: np.ndarray) -> float:
        return float(self.values[pairs].mean())


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet distance over pairs; features (pairs, f - 2, c) of the true and the generated frames between the keyframes."""

    truth: np.ndarray
    generated: np.ndarray

    def __call__(self, pairs: np.ndarray) -> float:
        return frechet.distance(np.concatenate(self.truth[pairs]), np.concatenate(self.generated[pairs]))


@dataclass(frozen=True)
class Difference:
    """Difference of two statistics on the same pairs."""

    minuend: Statistic
    subtrahend: Statistic

    def __call__(self, pairs: np.ndarray) -> float:
        return self.minuend(pairs) - self.subtrahend(pairs)


def summarise(request: EvaluationRequest, pairs: Sequence[Pair], rows: Mapping[str, Sequence[ClipMetrics]]) -> dict[str, Any]:
    """For each method: every metric's mean, 95 % interval and per-pair values, and the Frechet distance to the truth.

    Methods after the first also have the `difference` of each metric from the first method's on the same pairs, with its
    interval. Pairs differ from each other more than methods do, so this interval is narrower than those of the means suggest.

    Args:
        request: the command line.
        pairs: all pairs of the evaluation.
        rows: the result of `measure`.
    """
    groups = bootstrap.groups_of([pair.group for pair in pairs])
    truth = _features(request, TRUTH, pairs)
    methods: dict[str, Any] = {}
    first: dict[str, Statistic] = {}
    for method, clips in tqdm(rows.items(), desc="intervals", unit="method", leave=False):
        statistics: dict[str, Statistic] = {name: Mean(np.array([clip[name] for clip in clips])) for name in clips[0]}
        statistics[FRECHET] = FrechetDistance(truth, _features(request, method, pairs))
        methods[method] = {
            name: _summarise_statistic(statistic, first.get(name), groups) for name, statistic in statistics.items()
        }
        first = first or statistics
    return {"encoder": frechet.ENCODER, "independent_groups": len(groups), "methods": methods}


def _features(request: EvaluationRequest, method: str, pairs: Sequence[Pair]) -> np.ndarray:
    return np.stack([frechet.features(read_clip(request, method, pair)[1:-1]) for pair in pairs])


def _summarise_statistic(statistic: Statistic, first: Statistic | None, groups: Sequence[np.ndarray]) -> dict[str, Any]:
    """A statistic with its interval, for JSON; except for the first method, also its difference from the first method's."""
    biased = isinstance(statistic, FrechetDistance)
    resamples = _FRECHET_RESAMPLES if biased else bootstrap.RESAMPLES
    summary = bootstrap.with_interval(statistic, groups, resamples, biased=biased)
    if biased:  # a mirrored interval can go below 0, a distance can't
        summary["interval"] = [max(0.0, bound) for bound in summary["interval"]]
    if isinstance(statistic, Mean):
        summary["by_pair"] = statistic.values.tolist()
    if first is not None:
        summary["difference"] = bootstrap.with_interval(Difference(statistic, first), groups, resamples, biased=biased)
    return summary
