"""The loss curve, `loss.png`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svdjax.runtime.atomic import new_file
from train.run.metrics_table import StepMetrics


def running_mean(losses: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` losses at each step; fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(rows: Sequence[StepMetrics], path: Path) -> None:
    """Write or replace a PNG with the loss of each step and its running mean.

    Raises:
        InputError: it can't be written.
    """
    from matplotlib.figure import Figure  # takes half a second to import

    steps = np.array([row.step for row in rows])
    losses = np.array([row.loss for row in rows])
    window = max(len(rows) // 20, 5)
    figure = Figure(figsize=(8, 4.5))
    axes = figure.add_axes((0.09, 0.11, 0.89, 0.82))  # fixed margins: automatic ones double the time
    axes.plot(steps, losses, ".", color="tab:blue", alpha=0.25, markersize=4, label="one step")
    axes.plot(steps, running_mean(losses, window), color="tab:blue", label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"{len(rows)} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    with new_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
