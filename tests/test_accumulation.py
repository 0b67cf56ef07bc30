"""Gradients in parts are those of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.accumulation import loss_and_gradients


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
