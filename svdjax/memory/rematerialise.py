"""How a UNet runs its blocks: as they are, or keeping nothing of them for a gradient but their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

RunBlock = Callable[..., Any]  # (block, *args) -> block(*args)


def run_plainly(block: nnx.Module, *args: Any) -> Any:
    """The block, as it is."""
    return block(*args)


def run_rematerialised(block: nnx.Module, *args: Any) -> Any:
    """The block; a gradient computes its activations again instead of keeping them: memory for about a third more work.

    Unlike `jax.checkpoint`'s, the second computation waits for the gradient that needs it by depending on its value. XLA
    drops the barriers of `jax.checkpoint` on a CPU, merges both computations, and keeps everything after all.

    Args:
        block: any module that is a pytree.
        args: of its call.
    """
    leaves, structure = jax.tree.flatten((block, args))
    parameters = len(jax.tree.leaves(block))
    differentiated: list[int] = []

    def call(*leaves: Array) -> Any:
        block, args = structure.unflatten(leaves)
        return block(*args)

    @jax.custom_vjp
    def run(*leaves: Array) -> Any:
        return call(*leaves)

    def forward(*leaves: Any) -> tuple[Any, tuple[Array, ...]]:
        differentiated[:] = [i for i, leaf in enumerate(leaves) if leaf.perturbed]
        values = tuple(leaf.value for leaf in leaves)
        return call(*values), values

    def backward(values: tuple[Array, ...], cotangents: Any) -> tuple[Array | None, ...]:
        cotangents = jax.tree.map(_materialised, cotangents, is_leaf=_is_zero)
        waited_for = jax.tree.leaves(cotangents)[0].ravel()[0]
        # True unless it is NaN, which then is in every gradient anyway; the compiler has to wait and see. Weights don't wait:
        # under vmap the value is one a clip, and would make copies of them, one a clip.
        values = [*values[:parameters], *(jnp.where(waited_for == waited_for, x, 0) for x in values[parameters:])]

        def of_differentiated(*some: Array) -> Any:
            whole = list(values)
            for i, value in zip(differentiated, some, strict=True):
                whole[i] = value
            return call(*whole)

        _, gradient = jax.vjp(of_differentiated, *(values[i] for i in differentiated))
        found = dict(zip(differentiated, gradient(cotangents), strict=True))
        return tuple(found.get(i) for i in range(len(values)))

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(*leaves)


def _is_zero(x: Any) -> bool:
    return isinstance(x, jax.custom_derivatives.SymbolicZero)


def _materialised(x: Any) -> Array:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x
