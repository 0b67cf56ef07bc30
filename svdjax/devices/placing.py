"""Copy arrays between a process and devices, which may be those of several processes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Sharding


def put(tree: Any, sharding: Sharding) -> Any:
    """`jax.device_put` of arrays with the same values in every process; each process fills its own devices.

    On the devices of several processes, `jax.device_put` would send every array of a host to all others, to compare them.
    """
    return jax.device_put(tree, sharding) if sharding.is_fully_addressable else jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x: Any, sharding: Sharding) -> Array:
    if isinstance(x, jax.Array):
        if not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def to_host(x: Array | np.ndarray) -> np.ndarray:
    """The values of an array in every process; on the devices of several processes, all of them must call this."""
    if isinstance(x, np.ndarray) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)
