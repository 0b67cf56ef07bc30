"""Loss and gradients of a batch, at once or in parts; losses of the clips of each device together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

Trained = Mapping[str, Array]


def loss_and_gradients(
    losses: Callable[[Trained, Any], Array], trained: Trained, batch: Any, accumulate: int = 1
) -> tuple[Array, Array, dict[str, Array]]:
    """Mean loss of a batch, the loss of each clip (b,), and the gradient for every trained tensor.

    Args:
        losses: the loss of each clip of a batch, or of a part of one, (b,).
        trained: what gradients are of, by name.
        batch: arrays whose first axis is the clips.
        accumulate: into how many parts the batch is divided, one after the other, to need that much less memory.
    """

    def mean_loss(trained: Trained, part: Any) -> tuple[Array, Array]:
        of_clips = losses(trained, part)
        return of_clips.mean(), of_clips

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    if accumulate == 1:
        (loss, of_clips), gradients = gradient(trained, batch)
        return loss, of_clips, gradients

    # Part i is rows i, i + accumulate, ...: every device that holds consecutive rows has its share of each.
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: dict[str, Array], part: Any) -> tuple[dict[str, Array], Array]:
        (_, of_clips), gradients = gradient(trained, part)
        return jax.tree.map(jnp.add, total, gradients), of_clips

    zeros = jax.tree.map(jnp.zeros_like, dict(trained))
    total, of_clips = lax.scan(add, zeros, parts)
    of_clips = of_clips.swapaxes(0, 1).reshape(-1)
    return of_clips.mean(), of_clips, jax.tree.map(lambda x: x / accumulate, total)


def in_groups(losses: Callable[[Any], Array], batch: Any, groups: int) -> Array:
    """The loss of each clip, (b,), from a function of consecutive clips together.

    As many groups as there are devices that a batch is divided over: loops over frames and rows inside then never run over
    clips of several devices, which would have to be gathered. Not clip by clip: each would have its own gradient of every
    kernel, all to be added up, and a step of the tiny UNet on a CPU takes a quarter more.

    Args:
        losses: of each of some clips.
        batch: arrays whose first axis is the clips.
        groups: divides b.
    """
    grouped = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
    return jax.vmap(losses)(grouped).reshape(-1)
