"""Accumulated gradients are equal to those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.memory.accumulation import accumulate_gradients, in_groups


def losses(trained, batch):
    return jnp.square(batch["x"] @ trained["a"] + trained["b"]).mean(-1) * batch["weight"]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts(parts):
    rng = np.random.default_rng(0)
    trained = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    batch = {"x": rng.standard_normal((6, 5, 4)).mean(1), "weight": np.arange(6.0)}
    accumulate = jax.jit(lambda trained, batch: accumulate_gradients(losses, trained, batch, parts))
    loss, clip_losses, accumulated = accumulate(trained, batch)
    expected = losses(trained, batch)
    np.testing.assert_allclose(clip_losses, expected, rtol=1e-5)  # in the order of the rows
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    gradients = jax.grad(lambda trained: losses(trained, batch).mean())(trained)
    for name, value in gradients.items():
        np.testing.assert_allclose(accumulated[name], value, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups(groups):
    """Each group holds consecutive clips, and losses keep the order of the rows."""
    batch = {"x": np.arange(6.0)[:, None], "y": np.ones(6)}
    clip_losses = in_groups(lambda part: part["x"][:, 0] * len(part["y"]) + part["x"].min(), batch, groups)
    size = 6 // groups
    np.testing.assert_array_equal(clip_losses, np.arange(6) * size + np.arange(6) // size * size)
