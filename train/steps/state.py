"""What a step of training changes, as it is kept in memory, and as flat arrays by name for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step changes. The random state and the position in the data follow from the seed and the step.

    Attributes:
        step: steps done, int32 ().
        trained: the trained tensors by name, float32.
        optimizer: their optimizer's state.
    """

    step: Array
    trained: dict[str, Array]
    optimizer: Any


def begin(trained: Mapping[str, Array], optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), dict(trained), optimizer.init(dict(trained)))


def apply(state: State, gradients: Mapping[str, Array], optimizer: optax.GradientTransformation) -> State:
    """The state after one step with these gradients."""
    updates, inner = optimizer.update(gradients, state.optimizer, state.trained)
    return State(state.step + 1, optax.apply_updates(state.trained, updates), inner)


def to_arrays(state: State) -> dict[str, Any]:
    """The leaves of a state, or of anything of its structure, by dotted name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def from_arrays(arrays: Mapping[str, Any], like: State) -> State:
    """The inverse of `to_arrays`, for a state of the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in to_arrays(like)])


# A leaf's checksum: each 32-bit word, mixed with its place, times an odd number; summed modulo 2^32. As both steps can be
# undone, it changes with any change of one word.
_MIX = 0x9E3779B1


@jax.jit
def _sum(x: Array) -> Array:
    places = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return ((words ^ (places * jnp.uint32(_MIX))) * (2 * places + 1)).sum(dtype=jnp.uint32)


def checksums(state: State) -> list[int]:
    """One number a leaf, in the order of `to_arrays`, wherever the leaf lies: sums of integers are exact on every mesh.

    A program each shape: one for all leaves of a whole model would take minutes to compile.
    """
    return [int(x) for x in jax.device_get([_sum(x) for x in to_arrays(state).values()])]


def host_checksums(arrays: Mapping[str, np.ndarray]) -> list[int]:
    """`checksums` of arrays on the host."""

    def one(x: np.ndarray) -> int:
        places = np.arange(x.size, dtype=np.uint32)
        words = np.ascontiguousarray(x).reshape(-1).view(np.uint32)
        return int(((words ^ (places * np.uint32(_MIX))) * (2 * places + 1)).sum(dtype=np.uint32))

    return [one(x) for x in arrays.values()]
