"""The feed-forward kernel, interpreted, against the plain layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from svdjax.kernels import feed_forward
from svdjax.kernels.choice import PALLAS, XLA, using
from svdjax.models.initialize import Keys
from svdjax.models.layers import FeedForward
from svdjax.models.svd import fill, leaves

TOLERANCE = {"float32": 2e-6, "bfloat16": 0.02}  # of the norm


@pytest.fixture
def small_tiles(monkeypatch):
    """Small tiles, so that few rows and channels need many."""
    for name, size in {"ROWS": 16, "COLUMNS": 16, "DEPTH_BYTES": 64, "GROUP": 2}.items():
        monkeypatch.setattr(feed_forward, name, size)


def layer(width, dtype, param_dtype):
    """A feed-forward with random weights and biases."""
    module = FeedForward(width, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(param_dtype), rngs=Keys(0))
    rng = np.random.default_rng(0)
    return fill(module, {name: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype) for name, x in leaves(module).items()})


def value_and_gradients(kernels, module, x):
    """The output, and the gradients of all weights and of `x`."""

    @jax.jit
    def compute(module, x):
        value, pull = jax.vjp(lambda module, x: module(x), module, x)
        return value, pull(jnp.cos(value))

    with using(kernels):
        text = str(jax.make_jaxpr(compute)(module, x))
        value, gradients = compute(module, x)
    assert ("pallas_call" in text) is (kernels == PALLAS)
    return [value, *jax.tree.leaves(nnx.state(gradients[0])), gradients[1]]


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "rows", "width"),
    [
        ("float32", "float32", 48, 32),
        ("float32", "float32", 75, 48),  # the last tile of rows is not full
        ("bfloat16", "bfloat16", 41, 64),
        ("bfloat16", "float32", 33, 32),  # as in training
    ],
)
def test_value_and_gradients_are_the_layers_own(small_tiles, dtype, param_dtype, rows, width):
    module = layer(width, dtype, param_dtype)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 1, rows, width)), dtype)
    ours, theirs = (value_and_gradients(kernels, module, x) for kernels in (PALLAS, XLA))
    assert_close(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize(("rows", "width", "dtype"), [(300, 32, "float32"), (20, 96, "bfloat16")])
def test_tiles_as_on_a_gpu(rows, width, dtype):
    rng = np.random.default_rng(2)
    x, kernel, bias = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((rows, width), (width, 8 * width), 8 * width))
    values, gates = np.split(
        np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64), 2, axis=-1
    )
    expected = values * np.asarray(jax.nn.gelu(gates, approximate=False), np.float64)
    project = jax.jit(feed_forward.geglu_projection)
    assert_close([project(x, kernel, bias)], [jnp.asarray(expected, dtype)], {"float32": 2e-6, "bfloat16": 1e-3}[dtype])
    # a CPU always adds in float32
    assert str(jax.make_jaxpr(project)(x, kernel, bias)).count("preferred_element_type=float32") == 2


@pytest.mark.parametrize("shape", [(2, 3), (16, 9), (37, 15), (15, 60)])
def test_programs_compute_every_tile_once(shape):
    """All inside the array: a CPU would move tiles back into it, a GPU would not."""
    tile = (2, 3)
    row_tiles, column_tiles = -(-shape[0] // 2), shape[1] // 3
    start_of = jax.jit(jax.vmap(lambda program: feed_forward._start_of_tile(program, shape, tile)))
    starts = list(zip(*(numbers.tolist() for numbers in start_of(jnp.arange(row_tiles * column_tiles))), strict=True))
    rows = [min(2 * i, shape[0] - 2) for i in range(row_tiles)]
    assert sorted(starts) == [(row, 3 * i) for row in rows for i in range(column_tiles)]


def test_erf():
    x = jnp.linspace(-6, 6, 100_001, dtype=jnp.float32)
    with jax.enable_x64(True):
        exact = jax.lax.erf(jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(feed_forward._erf(x), exact, atol=5e-7)


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "dtype", "fits"),
    [
        (16, 16, 16, "float32", True),
        (15, 16, 16, "float32", False),
        (16, 24, 16, "bfloat16", False),
        (16, 16, 24, "bfloat16", False),
        (16, 16, 16, "float64", False),
    ],
)
def test_fits(rows, depth, columns, dtype, fits):
    assert feed_forward.fits((rows, depth), (depth, 2 * columns), dtype) is fits


def test_rows_that_do_not_fit_are_computed_plainly():
    module, x = layer(32, "float32", "float32"), jnp.ones((1, 1, 15, 32))
    with using(PALLAS):
        text = str(jax.make_jaxpr(module)(x))
    assert "dot_general" in text
    assert "pallas_call" not in text
