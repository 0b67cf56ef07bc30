"""The optimizer of training from scratch: Muon and AdamW, frozen tensors, EMA of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.steps.optimizer import averaged, optimizer
from train.steps.settings import PretrainingSettings


def settings(**options):
    return PretrainingSettings(batch_size=1, num_frames=2, size=(16, 16), steps=10, learning_rate=0.1, warmup=0, **options)


def test_kernels_are_orthogonalized():
    """All directions of a kernel get updates of the same size, however small their gradients; other tensors have AdamW's."""
    rng = np.random.default_rng(0)
    gradient = jnp.asarray(rng.standard_normal((3, 3, 64, 64)) * np.logspace(-2, 0, 64), jnp.float32)
    trained = {"conv.kernel": jnp.zeros((3, 3, 64, 64)), "conv.bias": jnp.ones(64), "conv_in.kernel": jnp.zeros((3, 3, 3, 64))}
    gradients = {"conv.kernel": gradient, "conv.bias": jnp.full(64, 1e-3), "conv_in.kernel": jnp.ones((3, 3, 3, 64)) * 1e-3}
    tx = optimizer(settings())
    updates, _ = tx.update(gradients, tx.init(trained), trained)
    scales = np.linalg.svd(np.asarray(updates["conv.kernel"]).reshape(-1, 64), compute_uv=False)
    assert scales.max() < 2 * scales.min()
    np.testing.assert_allclose(np.sqrt(np.square(updates["conv.kernel"]).mean()), 0.2 * 0.1, rtol=0.25)
    adam = optax.adam(0.1, b2=0.99, nesterov=True)
    expected, _ = adam.update(gradients, adam.init(trained))
    for name in ("conv_in.kernel", "conv.bias"):
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-3)


def test_a_frozen_encoder():
    """Weight decay doesn't change it either."""
    names = ("vae.encoder.conv.kernel", "vae.quant_conv.bias", "vae.decoder.conv.kernel", "vae.decoder.conv.bias")
    trained = {name: jnp.ones((64, 64) if name.endswith("kernel") else 64) for name in names}
    tx = optimizer(settings(freeze_encoder=True))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, trained), tx.init(trained), trained)
    for name, update in updates.items():
        assert (float(jnp.abs(update).max()) > 0) is name.startswith("vae.decoder."), name


def test_average_of_the_weights():
    optimizer = optax.chain(optax.sgd(1.0), averaged(0.9))
    trained = {"a": jnp.array(0.0)}
    state = optimizer.init(trained)
    mean = 0.0
    for step in range(1, 400):
        updates, state = optimizer.update({"a": jnp.array(-1.0 / step)}, state, trained)
        trained = optax.apply_updates(trained, updates)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * float(trained["a"])
        np.testing.assert_allclose(state[-1].average["a"], mean, rtol=1e-4)
