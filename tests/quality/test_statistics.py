"""Frechet distances of few and of many samples, resampling by weights and components, missing clips."""

import tracemalloc

import numpy as np
import pytest

from sample.evaluation import bootstrap, frechet
from sample.evaluation.summary import _Summary
from sample.quality import statistics
from sample.quality.statistics import FrechetDistance, Mean

RNG = np.random.default_rng(0)


def test_fewer_samples_than_features():
    """The distance by singular values of the samples is that by the covariances' eigenvalues."""
    few, others = RNG.standard_normal((2, 30, 50)) * np.linspace(0.1, 2, 50) + [[[0.0]], [[0.5]]]
    covariances = [np.cov(x, rowvar=False) for x in (few, others)]
    root = frechet._square_root(covariances[0])
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    expected = np.square(few.mean(0) - others.mean(0)).sum() + sum(map(np.trace, covariances)) - 2 * cross
    assert frechet.distance(few, others) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [10, 100])
def test_weights_are_repetitions(count):
    first, second = RNG.standard_normal((2, count, 40))
    pairs = RNG.integers(count, size=count)
    distance = FrechetDistance(truth=first[:, None], generated=second[:, None], present=np.ones(count, bool))
    assert distance(pairs) == pytest.approx(frechet.distance(first[pairs], second[pairs]), rel=1e-6)


def test_components(monkeypatch):
    """Variance in a few directions: as many components give nearly the whole distance, and the interval stays."""
    monkeypatch.setattr(statistics, "COMPONENTS", 4)
    spread = np.concatenate([np.full(4, 3.0), np.full(20, 0.02)])
    truth, generated = RNG.standard_normal((2, 20, 3, 24)) * spread
    generated = generated.astype(np.float32) * 1.3
    whole = FrechetDistance(truth=truth.astype(np.float32), generated=generated, present=np.ones(20, bool))
    reduced = whole.for_resampling
    assert reduced.generated.shape == (20, 3, 4)
    assert 0.99 < reduced.captured < 1
    groups = bootstrap.groups_of(range(20))
    found = statistics.resample(whole, groups)
    assert found.value == whole(np.arange(20)) != found.reference
    intervals = [
        bootstrap.estimate(found.value, found.values, biased=True, reference=found.reference)["interval"],
        bootstrap.with_interval(whole, groups, 200, biased=True)["interval"],
    ]
    np.testing.assert_allclose(*intervals, rtol=0.03)


class Files:
    """Features that are read at each use, as from files."""

    def __init__(self, features, missing=()):
        self.features, self.missing = features, missing

    def __getitem__(self, pair):
        assert pair not in self.missing
        return self.features[pair].copy()


@pytest.mark.parametrize("clips", [4, 40])
def test_features_in_files(clips, monkeypatch):
    """Distance and resamples are those of arrays, with fewer and with more rows than features; a missing clip isn't read."""
    monkeypatch.setattr(statistics, "COMPONENTS", 8)
    monkeypatch.setattr(statistics, "BLOCK", 30)
    spread = np.linspace(0.01, 2, 24)
    truth, generated = (100 + RNG.standard_normal((2, clips, 3, 24)) * spread).astype(np.float32)
    present = np.arange(clips) != 2
    kept = [x[present].reshape(-1, 24).astype(float) for x in (truth, 1.1 * generated)]
    covariances = [np.cov(x, rowvar=False) for x in kept]
    root = frechet._square_root(covariances[0])
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    expected = np.square(kept[0].mean(0) - kept[1].mean(0)).sum() + sum(map(np.trace, covariances)) - 2 * cross
    files = FrechetDistance(truth=Files(truth, [2]), generated=Files(1.1 * generated, [2]), present=present)
    groups = statistics.groups_among([str(i) for i in range(clips)], present)
    found = statistics.resample(files, groups)
    assert found.value == pytest.approx(expected, rel=1e-6)
    joint = np.concatenate(kept)
    values, vectors = np.linalg.eigh(sum((x - joint.mean(0)).T @ (x - joint.mean(0)) for x in kept))
    assert found.captured == pytest.approx(values[-8:].sum() / values.sum())
    projected = [x @ vectors[:, -8:] for x in kept]
    assert found.reference == pytest.approx(frechet.distance(*projected), rel=1e-4)
    assert found.values.std() > 0


def test_memory_of_many_features(monkeypatch):
    """The features of all clips are never in memory together."""
    monkeypatch.setattr(statistics, "COMPONENTS", 4)
    monkeypatch.setattr(statistics, "BLOCK", 100)
    features = RNG.standard_normal((500, 20, 50)).astype(np.float32)
    files = FrechetDistance(truth=Files(features), generated=Files(features), present=np.ones(500, bool))
    tracemalloc.start()
    files(np.arange(500))
    reduced = files.for_resampling
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reduced.truth.shape == (500, 20, 4)
    assert peak < features.nbytes / 2


def test_missing_clips():
    """Means are over the clips that a method has, differences over those that both have."""
    first = np.arange(10.0)
    second = first + 1
    second[[0, 9]] = np.nan
    first[3] = np.nan
    names = [str(i) for i in range(10)]
    found = _Summary(Mean(second), names).to_json(_Summary(Mean(first), names))
    assert found["pairs"] == 8
    assert found["difference"]["pairs"] == 7
    assert found["mean"] == pytest.approx(np.nanmean(second))
    assert found["difference"]["mean"] == pytest.approx(1)
    assert found["difference"]["interval"] == pytest.approx([1, 1])
    assert found["by_pair"] == [None, *second[1:9].tolist(), None]
    alone = _Summary(Mean(np.array([1.0, *[np.nan] * 9])), names).to_json(_Summary(Mean(first), names))
    assert alone["mean"] is None
    assert "difference" not in alone


def test_distance_without_missing_clips():
    """The features of a missing clip don't count, neither the true ones."""
    truth, generated = RNG.standard_normal((2, 12, 3, 5))
    present = np.arange(12) != 4
    names = [str(i) for i in range(12)]
    holes = np.where(present[:, None, None], generated, 1e6)
    found = _Summary(FrechetDistance(truth=truth, generated=holes, present=present), names).to_json()
    kept = [x[present].reshape(-1, 5) for x in (truth, generated)]
    assert found["mean"] == pytest.approx(frechet.distance(*kept))
    assert found["pairs"] == 11
    low, high = found["interval"]
    assert 0 <= low < high < 10
