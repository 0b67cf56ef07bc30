"""Gradients in parts are those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.memory.accumulation import in_groups, loss_and_gradients


def losses(trained, batch):
    return jnp.square(batch["x"] @ trained["a"] + trained["b"]).mean(-1) * batch["weight"]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_parts(parts):
    rng = np.random.default_rng(0)
    trained = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    batch = {"x": rng.standard_normal((6, 5, 4)).mean(1), "weight": np.arange(6.0)}
    found = jax.jit(lambda trained, batch: loss_and_gradients(losses, trained, batch, parts))(trained, batch)
    expected = losses(trained, batch)
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)  # in the order of the rows
    np.testing.assert_allclose(found[0], expected.mean(), rtol=1e-5)
    gradients = jax.grad(lambda trained: losses(trained, batch).mean())(trained)
    for name, value in gradients.items():
        np.testing.assert_allclose(found[2][name], value, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups(groups):
    """Each of consecutive clips together, in the order of the rows."""
    batch = {"x": np.arange(6.0)[:, None], "y": np.ones(6)}
    found = in_groups(lambda part: part["x"][:, 0] * len(part["y"]) + part["x"].min(), batch, groups)
    size = 6 // groups
    np.testing.assert_array_equal(found, np.arange(6) * size + np.arange(6) // size * size)
