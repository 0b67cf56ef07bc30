"""The result of a training step, and the error if it is not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from svdjax.errors import InputError


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a step, the same on every device.

    Attributes:
        loss: mean over the batch, ().
        losses: loss of each clip, (b,).
        sigma: noise level of each clip, (b,).
        gradient_norm: before clipping, ().
        finite: whether all trained weights are finite after the step, ().
    """

    loss: Array
    losses: Array
    sigma: Array
    gradient_norm: Array
    finite: Array


def check_finite(step: int, result: Result, clip_name: Callable[[int, int], str], last_saved: int) -> None:
    """Stop a run after a step with a NaN or infinite loss, gradient or weight.

    Args:
        step: number of the step.
        result: its result, on the host.
        clip_name: maps a step and a row of the batch to the name of the clip.
        last_saved: step of the last checkpoint, 0 if there is none.

    Raises:
        InputError: a value is not finite.
    """
    if np.isfinite(result.loss) and np.isfinite(result.gradient_norm) and result.finite:
        return
    bad = np.flatnonzero(~np.isfinite(result.losses))
    row = int(bad[0]) if bad.size else int(np.argmax(result.losses))
    if bad.size:
        found = f"the loss is {result.losses[row]:g}"
    elif not np.isfinite(result.gradient_norm):
        found = f"the loss is {result.loss:g}, but the gradient norm is {result.gradient_norm:g}"
    else:
        found = f"the loss is {result.loss:g}, but the weights after the step are not finite"
    largest = "" if bad.size or len(result.losses) == 1 else "the largest loss of a clip is "
    saved = "no checkpoint was saved before it"
    if last_saved:
        saved = f"the checkpoint of step {last_saved} is complete, and --resume --steps {last_saved} exports its weights"
    name = clip_name(step, row)
    raise InputError(f"step {step}: {found}, {largest}at sigma {result.sigma[row]:.4g} of {name}: stopped; {saved}")
