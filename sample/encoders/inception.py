"""Inception-v3 of 2015 in TensorFlow's form: the 2048 pooled features of FID.

The weights are in no package: a PyTorch file with torch-fidelity's names (`feature_extractor_weights_path` there) is given.
Sources: Szegedy et al. 2016, "Rethinking the Inception Architecture"; Heusel et al. 2017. Two details come from the published
graph: mean pooling leaves out the pixels outside the image, and the last block pools by maximum.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from sample.encoders.layers import Conv, Padding, convolve, max_pool, mean_pool_3x3, resize_bilinear, with_batch_norm
from sample.encoders.packaged import Tensors

FEATURES = 2048
SIDE = 299
_EPSILON = 1e-3

Layer = tuple[str, int, int, int, int]  # name, output channels, kernel height and width, stride
Branch = tuple[Layer, ...]
Parameters = dict[str, Conv]

_STEM = (
    ("Conv2d_1a_3x3", 32, 3, 3, 2),
    ("Conv2d_2a_3x3", 32, 3, 3, 1),
    ("Conv2d_2b_3x3", 64, 3, 3, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 1),
    ("Conv2d_4a_3x3", 192, 3, 3, 1),
)
_VALID = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3")  # of the stem, convolutions without padding


def _mixed_5(pooled: int) -> tuple[Branch, ...]:
    return (
        (("branch1x1", 64, 1, 1, 1),),
        (("branch5x5_1", 48, 1, 1, 1), ("branch5x5_2", 64, 5, 5, 1)),
        (("branch3x3dbl_1", 64, 1, 1, 1), ("branch3x3dbl_2", 96, 3, 3, 1), ("branch3x3dbl_3", 96, 3, 3, 1)),
        (("branch_pool", pooled, 1, 1, 1),),
    )


def _mixed_6(inner: int) -> tuple[Branch, ...]:
    return (
        (("branch1x1", 192, 1, 1, 1),),
        (("branch7x7_1", inner, 1, 1, 1), ("branch7x7_2", inner, 1, 7, 1), ("branch7x7_3", 192, 7, 1, 1)),
        (
            ("branch7x7dbl_1", inner, 1, 1, 1),
            ("branch7x7dbl_2", inner, 7, 1, 1),
            ("branch7x7dbl_3", inner, 1, 7, 1),
            ("branch7x7dbl_4", inner, 7, 1, 1),
            ("branch7x7dbl_5", 192, 1, 7, 1),
        ),
        (("branch_pool", 192, 1, 1, 1),),
    )


# Blocks in order with their branches; in the blocks named 6a and 7a the layers of stride 2 have no padding, and the last branch
# is a maximum without a convolution. In 7b and 7c, the layers `a` and `b` both follow the layer before and are joined.
_SPLIT_BLOCK: tuple[Branch, ...] = (
    (("branch1x1", 320, 1, 1, 1),),
    (("branch3x3_1", 384, 1, 1, 1), ("branch3x3_2a", 384, 1, 3, 1), ("branch3x3_2b", 384, 3, 1, 1)),
    (
        ("branch3x3dbl_1", 448, 1, 1, 1),
        ("branch3x3dbl_2", 384, 3, 3, 1),
        ("branch3x3dbl_3a", 384, 1, 3, 1),
        ("branch3x3dbl_3b", 384, 3, 1, 1),
    ),
    (("branch_pool", 192, 1, 1, 1),),
)
_BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": (
        (("branch3x3", 384, 3, 3, 2),),
        (("branch3x3dbl_1", 64, 1, 1, 1), ("branch3x3dbl_2", 96, 3, 3, 1), ("branch3x3dbl_3", 96, 3, 3, 2)),
        (),
    ),
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": (
        (("branch3x3_1", 192, 1, 1, 1), ("branch3x3_2", 320, 3, 3, 2)),
        (
            ("branch7x7x3_1", 192, 1, 1, 1),
            ("branch7x7x3_2", 192, 1, 7, 1),
            ("branch7x7x3_3", 192, 7, 1, 1),
            ("branch7x7x3_4", 192, 3, 3, 2),
        ),
        (),
    ),
    "Mixed_7b": _SPLIT_BLOCK,
    "Mixed_7c": _SPLIT_BLOCK,
}
_POOLED_BY_MAXIMUM = "Mixed_7c"


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the file must hold."""
    found: dict[str, tuple[int, ...]] = {}

    def add(prefix: str, layer: Layer, inputs: int) -> int:
        name, outputs, height, width, _ = layer
        found[f"{prefix}{name}.conv.weight"] = (outputs, inputs, height, width)
        found.update({f"{prefix}{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})
        return outputs

    channels = 3
    for layer in _STEM:
        channels = add("", layer, channels)
    for block, branches in _BLOCKS.items():
        total = 0
        for branch in branches:
            inner = channels
            for layer in branch:
                outputs = add(f"{block}.", layer, inner)
                split = layer[0].endswith("a")
                inner = inner if split else outputs
                total += outputs if split else 0
            total += inner
        channels = total
    return found


def parameters(tensors: Tensors) -> Parameters:
    """Parameters by layer name from the tensors of the file."""
    taken = {name: tensors.take(name, shape) for name, shape in shapes().items()}
    found = {}
    for name in (name.removesuffix(".conv.weight") for name in taken if name.endswith(".conv.weight")):
        scale, bias, mean, variance = (taken[f"{name}.bn.{x}"] for x in ("weight", "bias", "running_mean", "running_var"))
        kernel = taken[f"{name}.conv.weight"].transpose(2, 3, 1, 0)
        found[name] = with_batch_norm(kernel, mean, variance, bias, scale=scale, epsilon=_EPSILON)
    return found


@jax.jit
def features(params: Parameters, frames: Array) -> Array:
    """Pooled features, one frame after the other: uint8 (f, H, W, 3) -> (f, 2048)."""
    return jax.lax.map(functools.partial(_frame_features, params), frames)


def _frame_features(params: Parameters, frame: Array) -> Array:
    x = (resize_bilinear(frame[None].astype(jnp.float32), SIDE, SIDE) - 128) / 128
    for layer in _STEM:
        if layer[0] == "Conv2d_3b_1x1":
            x = max_pool(x, 3, 2)
        x = _apply(params, "", layer, x, "VALID" if layer[0] in _VALID else "SAME")
    x = max_pool(x, 3, 2)
    for name, branches in _BLOCKS.items():
        x = jnp.concatenate([_branch(params, name, branch, x) for branch in branches], -1)
    return x.mean((0, 1, 2))


def _branch(params: Parameters, block: str, branch: Branch, x: Array) -> Array:
    if not branch:
        return max_pool(x, 3, 2)
    if branch[0][0] == "branch_pool":
        x = max_pool(x, 3, 1, "SAME") if block == _POOLED_BY_MAXIMUM else mean_pool_3x3(x)
    joined = []
    for layer in branch:
        y = _apply(params, f"{block}.", layer, x, "VALID" if layer[4] == 2 else "SAME")
        if layer[0].endswith("a"):  # the next layer has the same input
            joined.append(y)
        else:
            x = y
    return jnp.concatenate([*joined, x], -1)


def _apply(params: Parameters, prefix: str, layer: Layer, x: Array, padding: Padding) -> Array:
    return jax.nn.relu(convolve(x, params[f"{prefix}{layer[0]}"], layer[4], padding))
