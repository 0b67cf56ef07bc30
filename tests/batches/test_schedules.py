"""Simulated schedules of many pairs over GPUs: fixed shares by index against "take the next pair that is not done".

    python tests/batches/test_schedules.py

prints the table of docs/guides/scale.md. Costs of a pair are lower bounds (docs/performance.md): no GPU has timed them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from sample.batches.claims import SILENCE

STEP, ENCODE, DECODE = 0.303, 0.008, 0.348  # lower bounds in seconds for SVD-XT on an H200, 25 frames of 1024x576
START = 180.0  # assumed seconds to load the model and read compiled programs
SPREAD = 0.05  # assumed standard deviation of the speed of a GPU, relative


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        seconds: until the last pair is there.
        idle: share of the GPUs' time without work on a pair that counts, from the first start to the end.
        restarts: how often the command was started again.
    """

    seconds: float
    idle: float
    restarts: float


def pair_costs(pairs: int, long_share: float) -> np.ndarray:
    """Seconds of each pair: 50 steps, or 175 (`--recurrence 5`) for a share of the pairs, in random order."""
    steps = np.where(np.random.default_rng(0).random(pairs) < long_share, 175, 50)
    return steps * STEP + ENCODE + DECODE


def fixed_shares(costs: np.ndarray, speeds: np.ndarray, death: tuple[int, float] | None = None) -> Outcome:
    """GPU k of n makes the pairs k, k + n, ...; when the others have ended, the same command is started again.

    Args:
        costs: seconds of the pairs at speed 1.
        speeds: of the GPUs.
        death: a GPU and when it dies.
    """
    n = len(speeds)
    ends = [START + np.cumsum(costs[k::n]) / speeds[k] for k in range(n)]
    last, useful, restarts = max(end[-1] for end in ends), float(sum((costs[k::n] / speeds[k]).sum() for k in range(n))), 0
    if death is not None and death[1] < ends[death[0]][-1]:
        gpu, moment = death
        left = costs[gpu::n][ends[gpu] > moment]
        others = max((end[-1] for k, end in enumerate(ends) if k != gpu), default=moment)
        last, restarts = max(others, moment) + START + left.sum() / speeds[gpu], 1
    return Outcome(last, 1 - useful / (n * last), restarts)


def next_pair(costs: np.ndarray, speeds: np.ndarray, death: tuple[int, float] | None = None) -> Outcome:
    """Each GPU takes the next pair that is neither done nor claimed; the pair of a dead one is free again after `SILENCE`.

    Args:
        costs, speeds, death: see `fixed_shares`.
    """
    n, useful, last = len(speeds), 0.0, 0.0
    waiting = list(enumerate(costs))[::-1]
    released: list[tuple[float, int, float]] = []
    free = [(START, k) for k in range(n)]
    heapq.heapify(free)
    restarts = 0
    while waiting or released:
        if not free:  # the only GPU died
            free, restarts = [(last + START, 0)], 1
        now, gpu = heapq.heappop(free)
        if waiting:
            number, cost = waiting.pop()
        else:  # wait until a dead GPU's claim is old enough
            moment, number, cost = released.pop()
            now = max(now, moment)
        end = now + cost / speeds[gpu]
        if death is not None and gpu == death[0] and not restarts and end > death[1]:
            released.append((death[1] + SILENCE, number, cost))
            last = max(last, death[1])
            continue
        useful, last = useful + cost / speeds[gpu], max(last, end)
        heapq.heappush(free, (end, gpu))
    return Outcome(last, 1 - useful / (n * last), restarts)


def mean(policy: Callable[..., Outcome], costs: np.ndarray, gpus: int, dies: bool, draws: int = 20) -> Outcome:
    """The mean over draws of the speeds, and of the GPU that dies and when."""
    outcomes = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        speeds = np.exp(rng.normal(0, SPREAD, gpus))
        death = (int(rng.integers(gpus)), START + rng.random() * costs.sum() / gpus) if dies else None
        outcomes.append(policy(costs, speeds, death))
    return Outcome(*(float(np.mean([getattr(o, name) for o in outcomes])) for name in ("seconds", "idle", "restarts")))


@pytest.mark.parametrize("policy", [fixed_shares, next_pair])
def test_equal_gpus_and_pairs(policy):
    """Ten pairs of 10 s on four GPUs: three rounds."""
    outcome = policy(np.full(10, 10.0), np.ones(4))
    assert outcome == Outcome(START + 30, 1 - 100 / (4 * (START + 30)), 0)


def test_a_gpu_that_dies():
    """It dies in its second pair: the others take its pairs, or it starts again and makes them alone."""
    costs, speeds, death = np.full(12, 10.0), np.ones(4), (1, START + 15)
    assert next_pair(costs, speeds, death).seconds == START + 15 + SILENCE + 10
    assert fixed_shares(costs, speeds, death).seconds == 2 * START + 30 + 20


def test_the_table():
    """Two rows of the page."""
    costs = pair_costs(10_000, 0)
    fixed, taken = (mean(policy, costs, 64, True, 20) for policy in (fixed_shares, next_pair))
    assert (round(fixed.seconds / 3600, 2), round(taken.seconds / 3600, 2)) == (1.21, 0.73)


def main() -> None:
    print("| pairs | GPUs | a GPU dies | policy | time | idle | restarts |")
    for long_share, pairs in ((0.0, "50 steps"), (0.1, "50 steps, one in ten 175")):
        costs = pair_costs(10_000, long_share)
        for gpus in (1, 8, 64):
            for dies in (False, True):
                for policy in (fixed_shares, next_pair):
                    outcome = mean(policy, costs, gpus, dies)
                    time = f"{outcome.seconds / 3600:.2f} h"
                    name = policy.__name__.replace("_", " ")
                    print(
                        f"| {pairs} | {gpus} | {'yes' * dies} | {name} | {time} | {outcome.idle:.1%} | {outcome.restarts:g} |"
                    )


if __name__ == "__main__":
    main()
