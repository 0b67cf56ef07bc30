"""How training from scratch begins, and its optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import svd_folders
import training

from svdjax.config import UNetConfig, VAEConfig
from svdjax.models.initialize import abstract, random
from svdjax.models.svd import fill, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from train.steps.optimizer import optimizer
from train.steps.settings import PretrainingSettings
from train.steps.zero_branches import begin


def how(**options):
    return PretrainingSettings(1, 2, (16, 16), 10, learning_rate=0.1, warmup=0, **options)


@pytest.fixture(scope="module")
def vae():
    return random(VAE, VAEConfig(block_out_channels=(64,), layers_per_block=1), jnp.float32)


def test_the_vae_begins_linear(vae):
    """But for norms and the activations after them, which stand only before the two last layers."""
    vae = fill(vae, begin("vae", leaves(vae)))
    latents = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 4))
    block = vae.decoder.mid_block.resnets[0]
    x = jax.random.normal(jax.random.key(1), (1, 3, 4, 4, 64))
    np.testing.assert_allclose(block.spatial_res_block(x), x, atol=1e-6)
    np.testing.assert_allclose(vae.decoder.mid_block.attentions[0](x), x, atol=1e-6)
    # frames don't see each other yet
    alone = jnp.concatenate([vae.decode(latents[:, i : i + 1]) for i in range(3)], 1)
    np.testing.assert_allclose(vae.decode(latents), alone, atol=1e-4)
    _, logvar = vae.encode(jax.random.normal(jax.random.key(2), (2, 16, 16, 3)))
    assert -8 < float(logvar.mean()) < -4


def test_the_unet_begins_with_nothing():
    """Its last layer, and the end of every residual branch: each residual block, spatial or temporal, and each transformer."""
    unet = abstract(UNet, UNetConfig(**svd_folders.UNET | training.UNET, transformer_layers_per_block=1), jnp.float32)
    made = begin("unet", {name: jnp.ones(x.shape) for name, x in leaves(unet).items()})
    ends = [name.replace("conv1", "conv2") for name in made if name.endswith("conv1.kernel")]
    mixers = [name for name in made if ".attentions." in name and name.endswith("mix_factor")]
    ends += [name.replace("time_mixer.mix_factor", "proj_out.kernel") for name in mixers]
    assert len(ends) == 10 + 4
    assert {name for name, x in made.items() if not x.any()} == {"conv_out.kernel", *ends}


def test_other_networks_begin_as_they_are():
    tensors = {"conv2.kernel": jnp.ones(3)}
    assert begin("image_encoder", tensors)["conv2.kernel"].tolist() == [1, 1, 1]


def test_kernels_are_made_orthogonal():
    """All directions of a kernel move alike, however small their gradients; other tensors move as AdamW moves them."""
    rng = np.random.default_rng(0)
    gradient = jnp.asarray(rng.standard_normal((3, 3, 64, 64)) * np.logspace(-2, 0, 64), jnp.float32)
    trained = {"conv.kernel": jnp.zeros((3, 3, 64, 64)), "conv.bias": jnp.ones(64), "conv_in.kernel": jnp.zeros((3, 3, 3, 64))}
    gradients = {"conv.kernel": gradient, "conv.bias": jnp.full(64, 1e-3), "conv_in.kernel": jnp.ones((3, 3, 3, 64)) * 1e-3}
    tx = optimizer(how())
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
    tx = optimizer(how(freeze_encoder=True))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, trained), tx.init(trained), trained)
    for name, update in updates.items():
        assert (float(jnp.abs(update).max()) > 0) is name.startswith("vae.decoder."), name
