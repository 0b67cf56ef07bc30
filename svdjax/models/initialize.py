"""Construction of models: abstract, for weights from a checkpoint, or with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import Array

Model = TypeVar("Model", bound=nnx.Module)


class Keys:
    """Random keys for initialisers, in place of `nnx.Rngs`: with its traced counter a full-size UNet takes a minute."""

    def __init__(self, seed: int | Array = 0):
        self._key = jax.random.key(seed)
        self._count = 0

    def params(self) -> Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def abstract(cls: Callable[..., Model], config: Any, dtype: Any, param_dtype: Any = None) -> Model:
    """A model of shapes and dtypes only: nothing is computed or allocated.

    Args:
        cls: `UNet`, `VAE` or `CLIPVision`.
        config: its configuration.
        dtype: compute dtype.
        param_dtype: dtype of the parameters; default: the compute dtype.
    """
    return nnx.eval_shape(lambda: random(cls, config, dtype, param_dtype))


def random(cls: Callable[..., Model], config: Any, dtype: Any, param_dtype: Any = None, seed: int | Array = 0) -> Model:
    """A model with random weights; see `abstract` for the arguments."""
    return cls(config, dtype=dtype, param_dtype=dtype if param_dtype is None else param_dtype, rngs=Keys(seed))
