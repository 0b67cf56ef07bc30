"""Small networks shared by several test files, and random backward tensors for any UNet."""

from __future__ import annotations

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np

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
