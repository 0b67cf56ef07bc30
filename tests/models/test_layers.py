"""Layers with a fast algorithm, against their definitions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.models.convolution import TemporalConv, convolve
from svdjax.models.initialize import Keys
from svdjax.models.layers import FeedForward, GroupNorm, geglu, gelu, timestep_embedding
from svdjax.models.resnet import Upsample
from svdjax.models.svd import fill, leaves

KW = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.fixture(autouse=True)
def float64():
    """Compare in float64, where a difference is an error and not rounding."""
    with jax.enable_x64(True):
        yield


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (1, 5), (2, 3), (3, 3)])
@pytest.mark.parametrize(("stride", "padding"), [(1, ((1, 1), (1, 1))), (2, ((1, 1), (1, 1))), (2, ((0, 1), (0, 1)))])
def test_convolutions_of_small_images(h, w, stride, padding):
    if h + sum(padding[0]) < 3 or w + sum(padding[1]) < 3:
        pytest.skip("image smaller than the kernel")
    x, kernel = normal(2, h, w, 4), normal(3, 3, 4, 5)
    np.testing.assert_allclose(convolve(x, kernel, stride, padding), plain(x, kernel, stride, padding), atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "channels"), [(2, 5), (4, 5), (4, 60), (6, 5)], ids=["small", "small result", "wide", "large"]
)
def test_gradients_of_convolutions(size, channels, stride):
    x, kernel = normal(2, size, size, 4), normal(3, 3, 4, channels)
    args = stride, ((1, 1), (1, 1))
    gradient = plain(x, kernel, *args)
    ours, theirs = (jax.vjp(lambda *a, f=f: f(*a, *args), x, kernel)[1](gradient) for f in (convolve, plain))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


@pytest.mark.parametrize(("positions", "copied"), [(16, True), (32, False)])
def test_windows_are_copied_if_they_are_no_larger_than_the_kernel(positions, copied):
    text = str(
        jax.make_jaxpr(lambda x, kernel: convolve(x, kernel, 1, ((1, 1), (1, 1))))(
            jnp.zeros((positions // 16, 4, 4, 2)), jnp.zeros((3, 3, 2, 16))
        )
    )
    assert ("conv_general_dilated" in text) is not copied


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 3), (5, 4)])
def test_upsampling_is_nearest_neighbour_and_a_convolution(h, w):
    layer = Upsample(32, **KW, rngs=Keys(1))
    x = normal(2, 3, h, w, 32)
    large = x.repeat(2, axis=-3).repeat(2, axis=-2).reshape(6, 2 * h, 2 * w, 32)
    want = plain(large, layer.conv.kernel[...], 1, ((1, 1), (1, 1))) + leaves(layer)["conv.bias"]
    np.testing.assert_allclose(layer(x), want.reshape(2, 3, 2 * h, 2 * w, 32), atol=1e-12)


def test_gradients_of_upsampling():
    """For an image that is large enough for XLA's convolution."""
    layer = Upsample(32, **KW, rngs=Keys(1))
    bias = leaves(layer)["conv.bias"]
    x, weight = normal(4, 9, 7, 32), normal(4, 18, 14, 32)

    def theirs(kernel, x):
        large = x.repeat(2, axis=-3).repeat(2, axis=-2)
        return ((plain(large, kernel, 1, ((1, 1), (1, 1))) + bias) * weight).sum()

    kernel = jnp.array(layer.conv.kernel[...])

    def ours(kernel, x):
        return (fill(layer, {"conv.kernel": kernel, "conv.bias": bias})(x) * weight).sum()

    for a, b in zip(jax.grad(ours, (0, 1))(kernel, x), jax.grad(theirs, (0, 1))(kernel, x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9 * float(jnp.abs(b).max()) + 1e-11)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_convolution_reads_neighbouring_frames(frames):
    layer = TemporalConv(4, 6, **KW, rngs=Keys(1))
    x = normal(2, frames, 2, 3, 4)
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    want = sum(padded[:, t : t + frames] @ layer.kernel[t] for t in range(3)) + layer.bias[...]
    np.testing.assert_allclose(layer(x), want, atol=1e-12)


@pytest.mark.parametrize("axes", [(-3, -2), (-4, -3, -2)], ids=["frame", "clip"])
def test_group_norm_statistics(axes):
    """Zero mean and unit variance over a group, also with a mean of a thousand standard deviations."""
    layer = GroupNorm(64, 1e-12, **KW, rngs=Keys(1))
    y = layer(1000 + normal(2, 3, 4, 5, 64), axes)
    groups = np.asarray(y).reshape(2, 3, 4, 5, 32, 2)
    over = (2, 3, 5) if axes == (-3, -2) else (1, 2, 3, 5)
    np.testing.assert_allclose(groups.mean(over), 0, atol=1e-9)
    np.testing.assert_allclose(groups.var(over), 1, atol=1e-9)


def test_feed_forward_in_blocks_equals_the_whole(monkeypatch):
    layer = FeedForward(32, **KW, rngs=Keys(1))
    x = normal(2, 3, 10, 32)
    whole = layer(x)
    monkeypatch.setattr("svdjax.models.layers.block_bytes", lambda: 8 * 8 * 32 * 7)  # 7 rows fit, so blocks of 6
    np.testing.assert_allclose(layer(x), whole, atol=1e-12)
    values, gates = jnp.split(layer.proj_in(x), 2, -1)
    np.testing.assert_allclose(whole, layer.proj_out(values * jax.nn.gelu(gates, approximate=False)), atol=1e-12)


def test_gelu_is_exact():
    x = jnp.linspace(-8, 8, 1001)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-14)


def test_geglu_has_the_gradient_of_its_definition():
    values, gates = normal(2, 50, 8)
    gates = 3 * gates
    ours, theirs = (
        jax.vjp(f, values, gates)[1](values + 1)
        for f in (geglu, lambda values, gates: values * jax.nn.gelu(gates, approximate=False))
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_timestep_embedding_has_cosines_first():
    e = timestep_embedding(jnp.asarray([0.0, 2.0]), 5)
    np.testing.assert_allclose(e[0], [1, 1, 0, 0, 0])
    np.testing.assert_allclose(e[1], [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02), 0])
