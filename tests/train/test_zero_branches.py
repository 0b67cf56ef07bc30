"""Initial weights of training from scratch: zero residual branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import svd_folders
import training

from svdjax.config import UNetConfig, VAEConfig
from svdjax.models.initialize import abstract, random
from svdjax.models.svd import fill, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from train.steps.zero_branches import zero_branches


@pytest.fixture(scope="module")
def vae():
    return random(VAE, VAEConfig(block_out_channels=(64,), layers_per_block=1), jnp.float32)


def test_the_vae_starts_linear(vae):
    """Except for norms and their activations, which remain only before the last two layers."""
    vae = fill(vae, zero_branches("vae", leaves(vae)))
    latents = jax.random.normal(jax.random.key(0), (1, 3, 4, 4, 4))
    block = vae.decoder.mid_block.resnets[0]
    x = jax.random.normal(jax.random.key(1), (1, 3, 4, 4, 64))
    np.testing.assert_allclose(block.spatial_res_block(x), x, atol=1e-6)
    np.testing.assert_allclose(vae.decoder.mid_block.attentions[0](x), x, atol=1e-6)
    # frames are still decoded independently
    alone = jnp.concatenate([vae.decode(latents[:, i : i + 1]) for i in range(3)], 1)
    np.testing.assert_allclose(vae.decode(latents), alone, atol=1e-4)
    _, logvar = vae.encode(jax.random.normal(jax.random.key(2), (2, 16, 16, 3)))
    assert -8 < float(logvar.mean()) < -4


def test_the_unet_starts_at_zero():
    """The last layer, and the end of every residual branch: residual blocks, spatial or temporal, and transformers."""
    unet = abstract(UNet, UNetConfig(**svd_folders.UNET | training.UNET, transformer_layers_per_block=1), jnp.float32)
    tensors = zero_branches("unet", {name: jnp.ones(x.shape) for name, x in leaves(unet).items()})
    ends = [name.replace("conv1", "conv2") for name in tensors if name.endswith("conv1.kernel")]
    mixers = [name for name in tensors if ".attentions." in name and name.endswith("mix_factor")]
    ends += [name.replace("time_mixer.mix_factor", "proj_out.kernel") for name in mixers]
    assert len(ends) == 10 + 4
    assert {name for name, x in tensors.items() if not x.any()} == {"conv_out.kernel", *ends}


def test_the_image_encoder_is_not_changed():
    tensors = {"conv2.kernel": jnp.ones(3)}
    assert zero_branches("image_encoder", tensors)["conv2.kernel"].tolist() == [1, 1, 1]


def test_a_miss_is_refused():
    """An unknown network, and a pattern without a tensor."""
    with pytest.raises(ValueError, match="text_encoder: is not in `ZERO`, expected one of vae, unet, image_encoder"):
        zero_branches("text_encoder", {})
    with pytest.raises(ValueError, match=r"unet: no tensor matches .*conv2"):
        zero_branches("unet", {"conv_out.kernel": jnp.ones(3)})
