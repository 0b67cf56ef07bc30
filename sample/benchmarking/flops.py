"""Counting floating-point operations: those of matrix products and convolutions, from the traced program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# Primitives that run the jaxprs among their parameters once. `custom_vjp_call` holds its backward pass as a function.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
)
# Kernels whose arithmetic a jaxpr doesn't show.
_OPAQUE = ("ffi_call", "pallas_call", "ragged_dot", "scaled_matmul", "dot_product_attention")  # as names begin
# The one of them that is used here, and how many products it does: queries with keys and weights with values; for the
# gradient the first again, and those for weights, values, queries and keys.
_CUDNN_ATTENTION = {
    f"dot_product_attention_{kind}{wrapper}": products
    for kind, products in (("fwd", 2), ("bwd", 5))
    for wrapper in ("", "_wrapper")
}


def count(fn: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of `fn(*args)`, two for each multiplication with addition, in products and convolutions.

    Bodies of loops count as often as they run, and of the branches of a condition the dearest counts. A convolution counts
    its whole output times its whole kernel, so that zeros of padding and dilation count as well; PyTorch's `FlopCounterMode`
    does the same. Everything else (norms, activations, softmax) counts nothing.

    Args:
        fn: anything that JAX can trace; nothing is compiled or run.
        args: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Raises:
        ValueError: work that can't be counted: products within a loop whose length depends on values, or a kernel whose
            inside is hidden.
    """
    return _jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_equation(eqn) for eqn in jaxpr.eqns)


def _equation(eqn: JaxprEqn) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        lhs, out = eqn.invars[0].aval, eqn.outvars[0].aval
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * out.size * math.prod(lhs.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, out = eqn.invars[1].aval, eqn.outvars[0].aval
        # the kernel's input axis is one group's already
        return 2 * out.size * (kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]])
    if name in _CUDNN_ATTENTION:
        queries, keys = eqn.invars[0].aval, eqn.invars[1].aval
        # axes (b, s, n, c), or (b, n, s, c) where `layout` is not 0
        return _CUDNN_ATTENTION[name] * 2 * queries.size * keys.shape[1 if params["layout"] == 0 else 2]
    inside = [_jaxpr(jaxpr) for jaxpr in _jaxprs(params.values())]
    if name.startswith(_OPAQUE):
        raise ValueError(f"can't count the operations of {name}: its kernel is hidden")
    if name == "scan":
        return params["length"] * sum(inside)
    if name == "cond":
        return max(inside)
    if name not in _CALLS and any(inside):
        raise ValueError(f"can't count the operations of {name}: how often it runs its body is not known")
    return sum(inside)


def _jaxprs(values: Any) -> Iterator[Jaxpr]:
    """Jaxprs among an equation's parameters, singly or in tuples."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
