"""Optimizer of training from scratch: Muon, AdamW, learning rate schedule, moving average of the weights."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from train.steps.muon import scale_by_muon
from train.steps.settings import PretrainingSettings
from train.steps.state import State

_SMALL = 32  # inputs or outputs of a kernel that is no matrix to Muon


class Average(NamedTuple):
    """The mean of the weights over the steps, in an optimizer's state."""

    count: Array
    average: Any


def averaged(decay: float) -> optax.GradientTransformation:
    """Keep an exponential mean of the weights, over few steps at first; to be chained last, as it reads the final updates."""

    def init(trained: Any) -> Average:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, trained))

    def update(updates: Any, state: Average, trained: Any) -> tuple[Any, Average]:
        count = state.count + 1
        share = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, x, u: a + share * (x + u - a), state.average, trained, updates)
        return updates, Average(count, average)

    return optax.GradientTransformation(init, update)


def optimizer(how: PretrainingSettings, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """Gradients clipped to a global norm of 1, Muon whose rate rises and then falls as a cosine, the mean of the weights.

    Muon takes the kernels, as matrices of inputs by outputs, AdamW all else; updates of both are of the size of AdamW's
    (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). The devices of `mesh` share Muon's work.
    """
    warmup = min(how.warmup, how.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0, how.learning_rate, warmup, how.steps)
    decayed = optax.chain(scale_by_muon(0.2, mesh), optax.add_decayed_weights(1e-2), optax.scale_by_learning_rate(rate))
    adam = optax.adamw(rate, b2=0.99, weight_decay=0.0, nesterov=True)
    muon = optax.partition({"muon": decayed, "adam": adam}, _kinds)
    frozen = optax.masked(optax.set_to_zero(), functools.partial(_frozen, how=how))  # weight decay would change them too
    return optax.chain(optax.clip_by_global_norm(1.0), muon, frozen, averaged(how.average))


def _frozen(trained: Any, how: PretrainingSettings) -> Any:
    """Which tensors stay as they are."""
    freeze = how.freeze_encoder
    return {name: freeze and name.startswith("vae.") and not name.startswith("vae.decoder.") for name in trained}


def _kinds(trained: Any) -> dict[str, str]:
    """Which tensors Muon takes, as matrices of inputs by outputs; pictures' and latents' own layers are not among them."""

    def is_matrix(name: str, x: Array) -> bool:
        return name.endswith(".kernel") and x.ndim > 1 and min(x.shape[-1], math.prod(x.shape[:-1])) > _SMALL

    return {name: "muon" if is_matrix(name, x) else "adam" for name, x in trained.items()}


def average_of(state: State) -> dict[str, Array]:
    """The mean of the weights, which is what is kept and shown."""
    return state.optimizer[-1].average
