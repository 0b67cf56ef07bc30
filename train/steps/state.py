"""The training state, its leaves as arrays by name for a checkpoint, and their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step changes. Random numbers and the position in the data follow from the seed and the step.

    Attributes:
        step: number of steps done, int32 ().
        trained: trained tensors by name, float32.
        optimizer: state of the optimizer.
    """

    step: Array
    trained: dict[str, Array]
    optimizer: Any


def begin(trained: Mapping[str, Array], optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), dict(trained), optimizer.init(dict(trained)))


def apply(state: State, gradients: Mapping[str, Array], optimizer: optax.GradientTransformation) -> State:
    """The state after one step with these gradients."""
    updates, inner = optimizer.update(dict(gradients), state.optimizer, state.trained)
    trained = cast(dict[str, Array], optax.apply_updates(state.trained, updates))
    return State(state.step + 1, trained, inner)


def to_arrays(state: State) -> dict[str, Any]:
    """The leaves of a state, or of any tree of its structure, by dotted name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def from_arrays(arrays: Mapping[str, Any], like: State) -> State:
    """The inverse of `to_arrays`, for a state of the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in to_arrays(like)])


# Checksum of a leaf: the sum modulo 2^32 of all 32-bit words, each mixed with its index and multiplied by an odd number. Both
# operations are invertible, so a change of one word always changes the sum.
_MIX = 0x9E3779B1


@jax.jit
def _sum(x: Array) -> Array:
    places = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return ((words ^ (places * jnp.uint32(_MIX))) * (2 * places + 1)).sum(dtype=jnp.uint32)


def checksums(state: State) -> list[int]:
    """One checksum per leaf, in the order of `to_arrays`. Integer sums are exact, so they are the same on every mesh.

    One program per shape: a single program for all leaves of a full-size model would take minutes to compile.
    """
    return [int(x) for x in jax.device_get([_sum(x) for x in to_arrays(state).values()])]


def host_checksums(arrays: Mapping[str, np.ndarray]) -> list[int]:
    """`checksums` of arrays on the host."""

    def checksum(x: np.ndarray) -> int:
        places = np.arange(x.size, dtype=np.uint32)
        words = np.ascontiguousarray(x).reshape(-1).view(np.uint32)
        return int(((words ^ (places * np.uint32(_MIX))) * (2 * places + 1)).sum(dtype=np.uint32))

    return [checksum(x) for x in arrays.values()]
