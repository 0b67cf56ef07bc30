"""The first half of a GEGLU feed-forward as one kernel: both matrix products, GELU and the product of the two.

XLA writes values and gates to memory, reads both, and writes their product: 14 to 18 c numbers per token of width c. This
kernel reads a token's c inputs and writes its 4c products. It is compiled by Triton, for NVIDIA GPUs; a CPU interprets it.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from jax.typing import DTypeLike

from svdjax.devices.target import target
from svdjax.memory.precision import stats_dtype

# One kernel block computes a tile of ROWS x COLUMNS values and the same tile of gates, DEPTH_BYTES of the inputs at a time. Its
# buffers fit in the shared memory of all NVIDIA GPUs since Ampere: 96 KiB of the 99 of an RTX 4090, 144 of the 227 of an H200
# (Triton takes STAGES - 1 buffers there, STAGES here). Its accumulators take 128 registers per thread. Compiled for these two
# cards, bfloat16 and TensorFloat-32 spill no register, which 128 x 128 does on the RTX 4090.
ROWS, COLUMNS, DEPTH_BYTES = 256, 64, 128
STAGES, WARPS = 3, 8
LEAST = 16  # smallest side of a tile that tensor cores take
GROUP = 8  # tiles of rows that are computed together, so that they find the weights in the cache

# Rational approximation of erf to float32's precision for |x| < 3.75, beyond which erf is 1 (coefficients of Eigen and XLA):
# Triton has no erf.
_ERF_BOUND = 3.7439211627767994
_ERF_NUMERATOR = (2.2905065861350646e-4, 3.4082910107109506e-3, 5.0955695062380861e-2, 1.8520832239976145e-1, 1.128379143519084)
_ERF_DENOMINATOR = (
    *(-1.1791602954361697e-7, 2.3547966471313185e-5, 1.0179625278914885e-3, 1.4070470171167667e-2),
    *(1.1098505178285362e-1, 4.9746925110067538e-1, 1.0),
)


def fits(shape: tuple[int, ...], kernel_shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    """Whether `geglu_projection` takes these shapes: at least 16 rows, widths divisible by 16, at most float32."""
    (rows, depth), columns = shape, kernel_shape[1] // 2
    return rows >= LEAST and not depth % LEAST and not columns % LEAST and stats_dtype(dtype) == jnp.float32


def geglu_projection(x: Array, kernel: Array, bias: Array) -> Array:
    """`(x @ kernel + bias)`'s first half times the exact GELU of its second half, without gradient.

    The sums, GELU and the product are in float32.

    Args:
        x: (n, c).
        kernel: (c, 2h), in the dtype of `x`.
        bias: (2h,), in the dtype of `x`.

    Returns:
        (n, h) in the dtype of `x`.
    """
    (n, depth), width = x.shape, kernel.shape[1] // 2
    rows = min(ROWS, 1 << (n.bit_length() - 1))
    columns = math.gcd(width, COLUMNS)  # the largest power of two that divides the width
    body = functools.partial(_geglu_kernel, rows=rows, columns=columns, step=math.gcd(depth, DEPTH_BYTES // x.dtype.itemsize))
    project = pl.pallas_call(
        body,
        grid=(pl.cdiv(n, rows) * (width // columns),),
        out_shape=jax.ShapeDtypeStruct((n, width), x.dtype),
        compiler_params=plt.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=target().is_cpu,
        name="geglu_projection",
    )
    with _some_gpu():
        return project(x, kernel, bias)


def _some_gpu() -> contextlib.AbstractContextManager[object]:
    """Name any GPU if none is present: JAX needs a name before XLA compiles a kernel for the target GPU."""
    if target().is_cpu or jax.default_backend() == "gpu":
        return contextlib.nullcontext()
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA A100", None, "gpu")))


def _geglu_kernel(x: Array, kernel: Array, bias: Array, out: Array, *, rows: int, columns: int, step: int) -> None:
    """One tile of the result. The references cover the whole arrays, see `geglu_projection`."""
    depth, width = x.shape[1], out.shape[1]
    row, column = _start_of_tile(pl.program_id(0), out.shape, (rows, columns))
    at_rows, at_values, at_gates = pl.ds(row, rows), pl.ds(column, columns), pl.ds(width + column, columns)
    product = functools.partial(jnp.dot, preferred_element_type=jnp.float32)

    def add_step(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        at_depth = pl.ds(i * step, step)
        inputs = x[at_rows, at_depth]
        return sums[0] + product(inputs, kernel[at_depth, at_values]), sums[1] + product(inputs, kernel[at_depth, at_gates])

    zeros = jnp.zeros((rows, columns), jnp.float32)
    values, gates = lax.fori_loop(0, depth // step, add_step, (zeros, zeros))
    values += bias[at_values].astype(jnp.float32)
    gates += bias[at_gates].astype(jnp.float32)
    out[at_rows, at_values] = (values * (0.5 * gates * (1 + _erf(gates * math.sqrt(0.5))))).astype(out.dtype)


def _start_of_tile(program: Array, shape: tuple[int, ...], tile: tuple[int, int]) -> tuple[Array, Array]:
    """First row and column of a kernel block's tile: all columns of `GROUP` tiles of rows, then those of the next group.

    The last tile of rows overlaps the tile before it, to stay inside the array. Both write the same numbers.
    """
    row_tiles, column_tiles = (pl.cdiv(size, step) for size, step in zip(shape, tile, strict=True))
    group = lax.div(program, GROUP * column_tiles)
    within = lax.rem(program, GROUP * column_tiles)
    size = jnp.minimum(row_tiles - group * GROUP, GROUP)
    row, column = group * GROUP + lax.rem(within, size), lax.div(within, size)
    return jnp.minimum(row * tile[0], shape[0] - tile[0]), column * tile[1]


def _erf(x: Array) -> Array:
    x = jnp.clip(x, -_ERF_BOUND, _ERF_BOUND)
    square = x * x

    def polynomial(coefficients: tuple[float, ...]) -> Array:
        return functools.reduce(lambda sum_, coefficient: sum_ * square + coefficient, coefficients[1:], coefficients[0])  # pyright: ignore

    return x * polynomial(_ERF_NUMERATOR) / polynomial(_ERF_DENOMINATOR)


def with_gradient_of(plain: Callable[..., Array], fast: Callable[..., Array]) -> Callable[..., Array]:
    """`fast`, with the gradient of `plain`. The gradient recomputes `plain`, so that only the arguments are kept.

    Args:
        plain: a function of arrays.
        fast: another implementation of the same function, not necessarily differentiable.
    """

    @jax.custom_vjp
    def function(*args: Array) -> Array:
        return fast(*args)

    def backward(args: tuple[Array, ...], gradient: Array) -> tuple[Array, ...]:
        return jax.vjp(plain, *args)[1](gradient)

    function.defvjp(lambda *args: (fast(*args), args), backward)
    return function
