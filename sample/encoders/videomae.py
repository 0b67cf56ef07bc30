"""VideoMAE-v2, ViT-g fine-tuned on Something-Something-v2: features of a clip for the content-debiased FVD.

The weights are in no package: the user gives a PyTorch file as cd-fvd uses it. Sources: Ge et al. 2024, "On the Content Bias in
Frechet Video Distance"; Wang et al. 2023, "VideoMAE V2".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sample.encoders.packaged import Tensors

FEATURES = 1408
FRAMES = 16
SIDE = 224
RESIZE = f"{FRAMES} frames evenly spaced over the clip; bilinear without smoothing, to {SIDE}x{SIDE}"
_LAYER_NORM_EPSILON = 1e-6


class Size(NamedTuple):
    """Size of the transformer."""

    width: int = FEATURES
    hidden: int = 6144  # width of the layer inside an MLP
    depth: int = 40
    heads: int = 16
    patch: int = 14  # pixels
    tube: int = 2  # frames of a patch


GIANT = Size()
_BLOCK = ("norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias")
_BLOCK += ("norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias")

Parameters = tuple[dict[str, np.ndarray], dict[str, Array]]  # of the whole, and stacked of all blocks


def shapes(size: Size = GIANT) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the file must hold; the classifier's are not used."""
    width, hidden = size.width, size.hidden
    matrices = {"attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width)}
    matrices |= {"mlp.fc1.weight": (hidden, width), "mlp.fc2.weight": (width, hidden), "mlp.fc1.bias": (hidden,)}
    found: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, size.tube, size.patch, size.patch),
        "patch_embed.proj.bias": (width,),
        "fc_norm.weight": (width,),
        "fc_norm.bias": (width,),
    }
    for i in range(size.depth):
        found |= {f"blocks.{i}.{name}": matrices.get(name, (width,)) for name in _BLOCK}
    return found


def parameters(tensors: Tensors, size: Size = GIANT) -> Parameters:
    """Parameters from the tensors of the file; those of the blocks are stacked."""
    taken = {name: tensors.take(name, shape) for name, shape in shapes(size).items()}
    blocks = {name: jnp.stack([taken.pop(f"blocks.{i}.{name}") for i in range(size.depth)]) for name in _BLOCK}
    return taken, blocks


@functools.partial(jax.jit, static_argnames="size")
def features(params: Parameters, frames: Array, size: Size = GIANT) -> Array:
    """Features of a clip: uint8 (f, H, W, 3) -> (1408,)."""
    chosen = np.round(np.linspace(0, frames.shape[0] - 1, FRAMES)).astype(int)
    x = frames[chosen].astype(jnp.float32) / 255
    x = jax.image.resize(x, (FRAMES, SIDE, SIDE, 3), "linear", antialias=False)
    whole, blocks = params
    kernel = whole["patch_embed.proj.weight"]
    x = _patches(x, size) @ kernel.reshape(kernel.shape[0], -1).T + whole["patch_embed.proj.bias"]
    x = x + _positions(*x.shape)
    x = jax.lax.scan(lambda x, block: (_block(x, block, size.heads), None), x, blocks)[0]
    return _layer_norm(x.mean(0), whole["fc_norm.weight"], whole["fc_norm.bias"])


def _patches(x: Array, size: Size) -> Array:
    """Patches in the order of time, rows, columns: (f, h, w, 3) -> (n, 3 * tube * patch * patch)."""
    count = SIDE // size.patch
    x = x.reshape(FRAMES // size.tube, size.tube, count, size.patch, count, size.patch, 3)
    return x.transpose(0, 2, 4, 6, 1, 3, 5).reshape(-1, 3 * size.tube * size.patch**2)


def _positions(count: int, width: int) -> np.ndarray:
    """Sines and cosines of the positions: (count, width)."""
    rates = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angles = np.arange(count)[:, None] * rates
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def _block(x: Array, block: dict[str, Array], heads: int) -> Array:
    """A transformer block: (n, width) -> (n, width)."""
    y = _layer_norm(x, block["norm1.weight"], block["norm1.bias"])
    bias = jnp.concatenate([block["attn.q_bias"], jnp.zeros_like(block["attn.q_bias"]), block["attn.v_bias"]])
    q, k, v = (y @ block["attn.qkv.weight"].T + bias).reshape(len(x), 3, heads, -1).swapaxes(0, 1)
    y = jax.nn.dot_product_attention(q, k, v).reshape(len(x), -1)
    x = x + y @ block["attn.proj.weight"].T + block["attn.proj.bias"]
    y = _layer_norm(x, block["norm2.weight"], block["norm2.bias"])
    y = jax.nn.gelu(y @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"], approximate=False)
    return x + y @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]


def _layer_norm(x: Array, weight: Array | np.ndarray, bias: Array | np.ndarray) -> Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + _LAYER_NORM_EPSILON) * weight + bias
