"""Optimizer of training from scratch: Muon, AdamW, learning rate schedule, EMA of the weights."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from train.steps.muon import scale_by_muon
from train.steps.settings import PretrainingSettings
from train.steps.state import State

_SMALL = 32  # AdamW updates kernels with at most this many inputs or outputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Average:
    """State of `averaged`; the field names are part of the names in a checkpoint.

    Attributes:
        count: number of steps done, int32 ().
        average: exponential moving average (EMA) of the weights.
    """

    count: Array
    average: Any


def averaged(decay: float) -> optax.GradientTransformation:
    """Keep an EMA of the weights with a shorter memory initially. It must be last in a chain: it reads the final updates."""

    def init(params: Any) -> Any:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        share = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, x, u: a + share * (x + u - a), state.average, params, updates)
        return updates, Average(count, average)

    return optax.GradientTransformation(init, update)


def optimizer(settings: PretrainingSettings, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """Gradient clipping to a global norm of 1, Muon and AdamW with linear warmup and cosine decay, EMA of the weights.

    Muon updates all but small kernels, as matrices (inputs, outputs), and AdamW all other tensors. Muon's updates are scaled
    to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2). The devices of `mesh` share
    Muon's work.
    """
    warmup = min(settings.warmup, settings.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0, settings.learning_rate, warmup, settings.steps)
    decayed = optax.chain(scale_by_muon(0.2, mesh), optax.add_decayed_weights(1e-2), optax.scale_by_learning_rate(rate))
    adam = optax.adamw(rate, b2=0.99, weight_decay=0.0, nesterov=True)
    muon = optax.partition({"muon": decayed, "adam": adam}, _optimizer_of)
    # last, because weight decay would change frozen tensors too
    frozen = optax.masked(optax.set_to_zero(), functools.partial(_frozen, freeze=settings.freeze_encoder))
    return optax.chain(optax.clip_by_global_norm(1.0), muon, frozen, averaged(settings.average))


def _frozen(trained: Any, freeze: bool) -> Any:
    """Whether each tensor is frozen: those of the VAE's encoder, if `freeze`."""
    return {name: freeze and name.startswith("vae.") and not name.startswith("vae.decoder.") for name in trained}


def _optimizer_of(trained: Any) -> dict[str, str]:
    """The optimizer of each tensor: Muon for kernels with more than `_SMALL` inputs and outputs, AdamW for all others."""

    def is_matrix(name: str, x: Array) -> bool:
        return name.endswith(".kernel") and x.ndim > 1 and min(x.shape[-1], math.prod(x.shape[:-1])) > _SMALL

    return {name: "muon" if is_matrix(name, x) else "adam" for name, x in trained.items()}


def average_of(state: State) -> dict[str, Array]:
    """The EMA of the weights, which is exported and validated."""
    return state.optimizer[-1].average
