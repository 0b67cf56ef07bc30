"""Small networks that several test files build, and a backward overlay for any UNet."""

from __future__ import annotations

from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np

from svdjax.diffusers_layout.config_files import from_pytorch
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

# Encoding A's keyframes differs by 1.5e-5 between two of PyTorch's own code paths, and as much from ours.
ENCODE_TOLERANCE = 5e-5


def make_clip(config: dict[str, Any], tensors: goldens.Tensors, dtype: Any = jnp.float32) -> CLIPVision:
    parsed = from_pytorch("image_encoder", config)
    return goldens.fill(abstract(CLIPVision, parsed, dtype, jnp.float32), tensors)


def make_vae(config: dict[str, Any], tensors: goldens.Tensors, dtype: Any = jnp.float32, param_dtype: Any = None) -> VAE:
    return goldens.fill(abstract(VAE, from_pytorch("vae", config), dtype, param_dtype), tensors)


def overlay(unet: UNet, names: tuple[str, ...] = ("to_v", "to_out"), move: float = 0.1) -> dict[str, jax.Array]:
    """Tuned tensors for every temporal self-attention: its own, randomly moved."""
    rng = np.random.default_rng(1)
    params = {}
    for path in unet.temporal_attention_paths():
        module = unet
        for part in path.split("."):
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        for name in names:
            layer = getattr(module, name)
            for leaf in ("kernel", "bias") if layer.use_bias else ("kernel",):
                x = getattr(layer, leaf)[...]
                params[f"{path}.{name}.{leaf}"] = x + move * rng.standard_normal(x.shape).astype(x.dtype)
    return params
