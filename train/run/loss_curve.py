"""The loss curve as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svdjax.runtime.atomic import new_file
from train.run.metrics import Row


def smoothed(losses: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` steps at each step, over fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG of the loss at each step and its running mean; an old one is replaced.

    Raises:
        InputError: it can't be written.
    """
    from matplotlib.figure import Figure  # takes half a second to import

    steps = np.array([row.step for row in rows])
    losses = np.array([row.loss for row in rows])
    window = max(len(rows) // 20, 5)
    figure = Figure(figsize=(8, 4.5))  # margins by hand: a layout that fits them doubles the time
    axes = figure.add_axes((0.09, 0.11, 0.89, 0.82))
    axes.plot(steps, losses, ".", color="tab:blue", alpha=0.25, markersize=4, label="one step")
    axes.plot(steps, smoothed(losses, window), color="tab:blue", label=f"mean of {window} steps")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=f"{len(rows)} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    with new_file(path, hint="; --resume goes on") as temporary:
        figure.savefig(temporary, dpi=110, format="png")
