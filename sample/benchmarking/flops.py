"""Floating-point operations of matrix products and convolutions, counted in the traced program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from svdjax.kernels.choice import XLA, using

# Primitives that run the jaxprs in their parameters once. The backward pass of `custom_vjp_call` is a function, not a jaxpr,
# and counts only in a traced gradient.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
)
# Prefixes of the names of kernels with arithmetic that is not in the jaxpr.
_OPAQUE = ("ffi_call", "pallas_call", "ragged_dot", "scaled_matmul", "dot_product_attention")
# The only opaque kernel used here, and its number of matrix products: queries with keys, and attention maps with values. The
# gradient repeats the first product and needs one each for the gradients of maps, values, queries and keys.
_CUDNN_ATTENTION = {
    f"dot_product_attention_{kind}{wrapper}": products
    for kind, products in (("fwd", 2), ("bwd", 5))
    for wrapper in ("", "_wrapper")
}


def count(fn: Callable[..., Any], *args: Any) -> int:
    """Count the floating-point operations of `fn(*args)`: two for each multiply-add in products and convolutions.

    Loop bodies count once per iteration. Of the branches of a conditional, the most expensive one counts. A convolution
    counts its whole output times its whole kernel, zeros of padding and dilation included, as in PyTorch's
    `FlopCounterMode`. Nothing else (norms, activations, softmax) is counted.

    Args:
        fn: anything that JAX can trace; it is neither compiled nor run. Pallas kernels count as what XLA would compute.
        args: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: products in a loop of unknown length, or an opaque kernel.
    """
    with using(XLA):
        return count_traced(jax.make_jaxpr(fn)(*args))


def count_traced(program: ClosedJaxpr) -> int:
    """The floating-point operations of a traced program; see `count`."""
    return _count(program.jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: JaxprEqn) -> int:
    name, params = eqn.primitive.name, eqn.params
    arrays: list[Any] = [var.aval for var in eqn.invars]  # operands of products are arrays, with `shape` and `size`
    results: list[Any] = [var.aval for var in eqn.outvars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * results[0].size * math.prod(arrays[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = arrays[1]  # its input axis has the channels of one group
        return 2 * results[0].size * (kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]])
    if name in _CUDNN_ATTENTION:
        queries, keys = arrays[:2]  # (b, s, n, c), or (b, n, s, c) if `layout` is not 0
        return _CUDNN_ATTENTION[name] * 2 * queries.size * keys.shape[1 if params["layout"] == 0 else 2]
    inside = [_count(jaxpr) for jaxpr in _jaxprs(params.values())]
    if name.startswith(_OPAQUE):
        raise ValueError(f"can't count the operations of {name}: the kernel is opaque")
    if name == "scan":
        return params["length"] * sum(inside)
    if name == "shard_map":  # every device runs it on its share
        return params["mesh"].size * sum(inside)
    if name == "cond":
        return max(inside)
    if name not in _CALLS and any(inside):
        raise ValueError(f"can't count the operations of {name}: the number of its iterations is unknown")
    return sum(inside)


def _jaxprs(values: Any) -> Iterator[Jaxpr]:
    """The jaxprs in an equation's parameters, also inside tuples and lists."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _jaxprs(value)
