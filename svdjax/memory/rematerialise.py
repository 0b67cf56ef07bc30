"""Two ways to run a block of a UNet: normally, or with its activations recomputed for the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.custom_derivatives import SymbolicZero

RunBlock = Callable[..., Any]  # (block, *args) -> block(*args)


def run_plainly(block: nnx.Module, *args: Any) -> Any:
    """`block(*args)`; a gradient keeps the block's activations."""
    return block(*args)


def run_rematerialised(block: nnx.Module, *args: Any) -> Any:
    """`block(*args)`; a gradient keeps only the inputs and recomputes the activations, about a third more work.

    This is `jax.checkpoint` with another barrier: the recomputation depends on the value of the incoming gradient. On a
    CPU, XLA drops the barriers of `jax.checkpoint`, merges both computations, and keeps all activations after all.

    Args:
        block: any module that is a pytree.
        args: arguments of its call, pytrees of arrays.
    """
    inputs, structure = jax.tree.flatten((block, args))
    num_parameters = len(jax.tree.leaves(block))
    # Indices of the inputs that need a gradient, set by `forward` for `backward`. They are not residuals, because JAX may
    # trace `forward` several times, each time with more of these inputs, and residuals must keep one structure. The last
    # trace is the valid one.
    differentiated: list[int] = []

    def call(*inputs: Array) -> Any:
        block, args = structure.unflatten(inputs)
        return block(*args)

    def forward(*inputs: Any) -> tuple[Any, tuple[Array, ...]]:
        differentiated[:] = [i for i, x in enumerate(inputs) if x.perturbed]
        values = tuple(x.value for x in inputs)
        return call(*values), values

    def backward(inputs: tuple[Array, ...], cotangents: Any) -> tuple[Array | None, ...]:
        cotangents = jax.tree.map(_materialised, cotangents, is_leaf=_is_zero)
        # No barrier for parameters: under vmap there is one gradient per clip, and the barrier would copy them for each clip.
        parameters, activations = inputs[:num_parameters], inputs[num_parameters:]
        inputs = (*parameters, *_available_after(jax.tree.leaves(cotangents)[0], activations))

        def call_differentiated(*some: Array) -> Any:
            replaced = dict(zip(differentiated, some, strict=True))
            return call(*(replaced.get(i, x) for i, x in enumerate(inputs)))

        _, gradient = jax.vjp(call_differentiated, *(inputs[i] for i in differentiated))
        gradients = dict(zip(differentiated, gradient(cotangents), strict=True))
        return tuple(gradients.get(i) for i in range(len(inputs)))

    run = jax.custom_vjp(call)
    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(*inputs)


def _available_after(gradient: Array, values: Sequence[Array]) -> list[Array]:
    """`values` unchanged, but dependent on `gradient` for the compiler: a barrier that no compiler pass removes.

    The compiler cannot remove `x == x`, because it is false for NaN. If `x` is NaN, all gradients are NaN anyway.
    """
    x = gradient.ravel()[0]
    return [jnp.where(x == x, value, 0) for value in values]


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _materialised(x: Any) -> Array:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x
