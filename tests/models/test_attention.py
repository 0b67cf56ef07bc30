"""Attention as functions: blocks, maps and their rotation, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.models.spatial_attention import blocked_attention
from svdjax.models.temporal_attention import apply_maps, attention_maps, rotate_maps


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def reference(q, k, v):
    """Plain softmax attention in numpy, float64: (m, s, n, c)."""
    logits = np.einsum("mqnc,mknc->mnqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("mnqk,mknc->mqnc", weights / weights.sum(-1, keepdims=True), v)


# 6 frames of 12 tokens, 2 heads, float64: logits of 13,824 bytes; of one head of one frame 1,152, of one of its queries 96
@pytest.mark.parametrize("limit", [2**30, 1152, 400, 1], ids=["whole", "a head", "queries", "one query"])
def test_blocked_attention_equals_plain_attention(limit):
    with jax.enable_x64(True):
        q, k, v = normal(3, 6, 12, 2, 4)
        np.testing.assert_allclose(blocked_attention(q, k, v, limit), reference(q, k, v), rtol=1e-12, atol=1e-14)


def test_blocked_attention_never_holds_more_logits_than_its_limit():
    q = jax.ShapeDtypeStruct((4, 64, 2, 8), jnp.float32)
    limit = 16 * 64 * 4  # logits of 16 of the 64 queries of one head
    jaxpr = jax.make_jaxpr(lambda q, k, v: blocked_attention(q, k, v, limit))(q, q, q)

    def shapes(jaxpr):
        for eqn in jaxpr.eqns:
            yield from (v.aval.shape for v in eqn.outvars)
            for inner in eqn.params.values():
                if hasattr(inner, "jaxpr"):
                    yield from shapes(inner.jaxpr)

    logits = [s for s in shapes(jaxpr.jaxpr) if s[-1:] == (64,)]  # nothing else ends in the 64 keys
    assert max(4 * int(np.prod(s)) for s in logits) == limit


def test_softmax_is_float32_for_16_bit_inputs():
    q = jnp.asarray(normal(1, 3, 2, 1, 8), jnp.bfloat16)
    assert attention_maps(q, q).dtype == jnp.float32


def test_maps_are_per_pixel_batch_major():
    with jax.enable_x64(True):
        q, k = normal(2, 2, 3, 5, 1, 4)  # b f s n c
        maps = attention_maps(q, k)
        assert maps.shape == (10, 1, 3, 3)
        # pixel 4 of clip 1
        want = np.exp(q[1, :, 4, 0] @ k[1, :, 4, 0].T / 2)
        np.testing.assert_allclose(maps[1 * 5 + 4, 0], want / want.sum(-1, keepdims=True), rtol=1e-12)


def test_rotating_maps_is_reversing_time_on_both_sides():
    """rot180(A) V = flip(A flip(V)), the identity that lets both directions share one product."""
    with jax.enable_x64(True):
        maps = jax.nn.softmax(normal(6, 2, 5, 5))
        v = jnp.asarray(normal(1, 2, 5, 3, 2, 4))
        rotated = apply_maps(rotate_maps(maps), v)
        np.testing.assert_allclose(rotated, jnp.flip(apply_maps(maps, jnp.flip(v, 2)), 2), rtol=1e-12)
        np.testing.assert_array_equal(rotate_maps(maps)[0, 0, 1, 0], maps[0, 0, 3, 4])


def test_maps_are_right_where_a_sum_of_products_is_wrong():
    """jaxlib 0.10.2 on a CPU would fuse a sum of products of this size with the softmax, wrongly (jax-ml/jax#39103)."""
    q, k = normal(2, 2, 14, 256, 1, 32).astype(np.float32)
    logits = np.einsum("bfsnc,bgsnc->bsnfg", q, k) / np.sqrt(32)
    want = np.exp(logits - logits.max(-1, keepdims=True))
    want /= want.sum(-1, keepdims=True)
    # float32 rounding
    np.testing.assert_allclose(jax.jit(attention_maps)(q, k), want.reshape(512, 1, 14, 14), rtol=1e-4, atol=1e-6)


def test_apply_maps_has_the_gradient_of_its_definition():
    with jax.enable_x64(True):
        # maps (b*s, n, f, f), values (d, b, f, s, n, c); vmapped, as in training
        maps, v = normal(3, 8, 2, 5, 5), normal(3, 2, 2, 5, 4, 2, 6)

        def definition(maps, v):
            return jnp.einsum("bsnfg,dbgsnc->dbfsnc", maps.reshape(2, 4, 2, 5, 5), v)

        ours, theirs = (
            jax.vmap(lambda maps, v, f=f: jax.vjp(f, maps, v)[1](jnp.cos(v)))(maps, v) for f in (apply_maps, definition)
        )
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
