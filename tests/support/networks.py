"""Small networks shared by several test files, a stand-in for the UNet, and random backward tensors for any UNet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.models import svd
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE

TINY = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "layers_per_block": 1,
    "num_attention_heads": (2, 4),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "transformer_layers_per_block": 1,
}

# Two of PyTorch's own code paths encode A's keyframes with a difference of 1.5e-5, and ours differs as much from them.
ENCODE_TOLERANCE = 5e-5


def make_clip(config: dict[str, Any], tensors: goldens.Tensors, dtype: Any = jnp.float32) -> CLIPVision:
    parsed = from_pytorch("image_encoder", config)
    return goldens.fill(abstract(CLIPVision, parsed, dtype, jnp.float32), tensors)


def make_vae(config: dict[str, Any], tensors: goldens.Tensors, dtype: Any = jnp.float32, param_dtype: Any = None) -> VAE:
    return goldens.fill(abstract(VAE, from_pytorch("vae", config), dtype, param_dtype), tensors)


def backward_tensors(unet: UNet, layers: tuple[str, ...] = ("to_v", "to_out"), scale: float = 0.1) -> dict[str, jax.Array]:
    """The tensors of some layers of every temporal self-attention, plus noise of standard deviation `scale`."""
    rng = np.random.default_rng(1)
    tensors = svd.leaves(unet)
    names = [
        f"{path}.{layer}.{kind}"
        for path in unet.temporal_attention_paths()
        for layer in layers
        for kind in ("kernel", "bias")
        if f"{path}.{layer}.{kind}" in tensors
    ]
    noise = {name: rng.standard_normal(tensors[name].shape).astype(tensors[name].dtype) for name in names}
    return {name: tensors[name] + scale * noise[name] for name in names}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlainUNet:
    """A stand-in for the UNet that compiles at once, for tests of what the sampler does around it.

    v depends on the latents, the time order of their frames, sigma, the keyframe and its embedding. The second half of a batch
    with `backward` depends on the first. Deep features are the cumulative sum over the frames.

    Attributes:
        weight: any number.
        dtype: compute dtype.
    """

    weight: Array
    dtype: Any = field(default=jnp.float32, metadata={"static": True})

    def __call__(
        self,
        sample: Array,
        c_noise: Array,
        image_embeds: Array,
        added_time_ids: Array,
        *,
        backward: Any = None,
        deep: Array | None = None,
        return_deep: bool = False,
    ) -> Any:
        noisy, image = jnp.split(sample, 2, -1)
        deep = jnp.cumsum(noisy, 1) / noisy.shape[1] if deep is None else deep
        sigma = jnp.exp(4 * c_noise)[:, None, None, None, None]
        known = image + image_embeds.mean((1, 2))[:, None, None, None, None]
        v = jnp.tanh(self.weight * deep + 0.3 * known) + noisy * sigma / jnp.sqrt(1 + sigma**2) * 0.2
        if backward is not None:
            half = len(v) // 2
            v = v.at[half:].add(0.1 * jnp.flip(v[:half], 1))
        return (v, deep) if return_deep else v


def plain_unet() -> PlainUNet:
    return PlainUNet(jnp.float32(0.7))
