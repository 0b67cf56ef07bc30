"""Gradient accumulation: loss and gradients of a batch, computed at once or in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Trained = Mapping[str, Array]


def accumulate_gradients(
    losses: Callable[[Trained, Any], Array], trained: Trained, batch: Any, parts: int = 1
) -> tuple[Array, Array, dict[str, Array]]:
    """Mean loss of a batch, loss of each clip, and gradient of the mean loss.

    Args:
        losses: maps the trained tensors and a batch, or a part of a batch, to the loss of each clip, (b,).
        trained: the tensors to differentiate, by name.
        batch: arrays with the clips on the first axis.
        parts: number of equal parts, a divisor of b, computed one after the other. More parts need less memory.

    Returns:
        The mean loss, the loss of each clip (b,), and the gradients by name.
    """

    def mean_loss(trained: Trained, part: Any) -> tuple[Array, Array]:
        clip_losses = losses(trained, part)
        return clip_losses.mean(), clip_losses

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    if parts == 1:
        (loss, clip_losses), gradients = gradient(trained, batch)
        return loss, clip_losses, gradients

    # Part i is rows i, i + parts, ...: a device that holds consecutive rows then has its share of every part.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: dict[str, Array], part: Any) -> tuple[dict[str, Array], Array]:
        (_, clip_losses), gradients = gradient(trained, part)
        return jax.tree.map(jnp.add, total, gradients), clip_losses

    total, clip_losses = lax.scan(add, jax.tree.map(jnp.zeros_like, dict(trained)), split)
    clip_losses = clip_losses.swapaxes(0, 1).reshape(-1)
    return clip_losses.mean(), clip_losses, jax.tree.map(lambda x: x / parts, total)


def in_groups(losses: Callable[[Any], Array], batch: Any, groups: int) -> Array:
    """Loss of each clip, (b,), computed for `groups` groups of consecutive clips in parallel.

    Use one group per device that the batch is divided over. Then no loop over frames or rows inside `losses` mixes clips of
    several devices, which would have to be gathered. One group per clip is slower: each clip would have its own gradient of
    every kernel, and the sum of these gradients makes a step of the tiny UNet 25 % longer on a CPU.

    Args:
        losses: maps the clips of one group to the loss of each clip, (b / groups,).
        batch: arrays with the clips on the first axis.
        groups: a divisor of b.
    """
    grouped = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
    return jax.vmap(losses)(grouped).reshape(-1)
