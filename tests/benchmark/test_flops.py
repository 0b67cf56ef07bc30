"""The operation counter against counts by hand, against PyTorch's counter, and on the real model's shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from jax import lax
from jax.sharding import AbstractMesh, AxisType
from torch.utils.flop_counter import FlopCounterMode

from sample.benchmarking import flops
from svdjax.config import UNetConfig, VAEConfig
from svdjax.models.initialize import abstract
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE


def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def test_products():
    assert flops.count(jnp.matmul, array(3, 4), array(4, 5)) == 2 * 3 * 4 * 5
    # batch axes b and n; c is summed
    assert flops.count(lambda a, b: jnp.einsum("bfnc,bgnc->bnfg", a, b), array(2, 3, 5, 7), array(2, 4, 5, 7)) == (
        2 * (2 * 5 * 3 * 4) * 7
    )
    assert flops.count(lambda a: jnp.exp(a).sum(), array(3, 4)) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # 9 taps of 6 input channels for each of 10x12 pixels and 8 output channels
        ({"padding": "SAME"}, 2 * (10 * 12 * 8) * 9 * 6),
        ({"padding": "VALID"}, 2 * (8 * 10 * 8) * 9 * 6),
        ({"padding": ((1, 1), (1, 1)), "window_strides": (2, 2)}, 2 * (5 * 6 * 8) * 9 * 6),
        ({"padding": "SAME", "rhs_dilation": (2, 2)}, 2 * (10 * 12 * 8) * 9 * 6),
        # two groups: each output sees 3 of the 6 channels
        ({"padding": "SAME", "feature_group_count": 2}, 2 * (10 * 12 * 8) * 9 * 3),
    ],
)
def test_convolutions(options, expected):
    inputs = 6 // options.get("feature_group_count", 1)

    def conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, **({"window_strides": (1, 1)} | options), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert flops.count(conv, array(3, 10, 12, 6), array(3, 3, inputs, 8)) == 3 * expected


ONE = 2 * 4**3  # a product of two 4x4 matrices
X = array(4, 4)


@jax.custom_jvp
def with_own_derivative(x):
    return x @ x


with_own_derivative.defjvp(lambda primals, tangents: (with_own_derivative(*primals), *tangents))


@pytest.mark.parametrize(
    ("fn", "products"),
    [
        (lambda x: lax.scan(lambda c, _: (c @ c, None), x, length=5)[0], 5),
        (lambda x: lax.fori_loop(0, 3, lambda i, c: c @ c, x), 3),
        # 6 rows of 7: nested maps
        (lambda x: lax.map(lambda y: lax.map(lambda z: z @ x, y), jnp.broadcast_to(x, (6, 7, 4, 4))), 42),
        (lambda x: lax.cond(x[0, 0] > 0, lambda c: c @ c @ c, lambda c: c @ c, x), 2),
        (lambda x: lax.platform_dependent(x, cpu=lambda c: c * 2, default=lambda c: c @ c), 1),
        (lambda x: jax.jit(lambda c: c @ c)(x) @ x, 2),
        (lambda x: jax.checkpoint(lambda c: c @ c)(x), 1),
        (lambda x: with_own_derivative(x), 1),
        (jax.grad(lambda x: (x @ x).sum()), 3),  # forward, and one per factor
        (lambda x: lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c - 1, x), 0),
    ],
)
def test_loops_branches_and_calls(fn, products):
    assert flops.count(fn, X) == products * ONE


def test_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="while: the number of its iterations is unknown"):
        flops.count(lambda x: lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ c, x), X)


def test_cudnn_attention():
    # traced as on a GPU with cuDNN; nothing is lowered
    kernels = "jax._src.cudnn.fused_attention_stablehlo"
    with (
        mock.patch(f"{kernels}.check_cudnn_version", return_value=91000),
        mock.patch(f"{kernels}.check_compute_capability", return_value=True),
    ):

        def attention(q, k):
            return jax.nn.dot_product_attention(q, k, k, implementation="cudnn")

        q, k = array(2, 16, 5, 64, dtype="bfloat16"), array(2, 24, 5, 64, dtype="bfloat16")
        assert flops.count(attention, q, k) == 2 * 2 * (2 * 5) * 16 * 24 * 64
        trained = flops.count(jax.grad(lambda q: attention(q, q).astype(float).sum()), q)
        assert trained == (2 + 5) * 2 * (2 * 5) * 16 * 16 * 64


SMALL_UNET = UNetConfig(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    layers_per_block=(1, 1),
    transformer_layers_per_block=(1, 1),
    num_attention_heads=(2, 4),
    cross_attention_dim=(16, 16),
)


def upsampler(b_f: int, h: int, w: int, c: int) -> int:
    """2x2 windows of the small image, one more than its rows and columns, with four outputs each (`svdjax.models.resnet`)."""
    return 2 * b_f * (h + 1) * (w + 1) * (2 * 2 * c) * (4 * c)


def torch_counts(model: torch.nn.Module, run: Callable[[], Any]) -> tuple[int, dict[str, int]]:
    """PyTorch's count of all operations, and of those in each module."""
    for module in model.modules():
        if isinstance(module, Attention):  # explicit products, because the counter doesn't know the fused kernel of CPUs
            module.set_processor(AttnProcessor())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return counter.get_total_flops(), by_module


def test_unet_against_pytorch():
    """Equal except for the savings: cross-attention to one token, time embeddings projected once per clip instead of per frame,
    and upsampling before its convolution."""
    b, f, h, w = 1, 3, 8, 12
    theirs = UNetSpatioTemporalConditionModel(**dataclasses.asdict(SMALL_UNET))
    inputs = torch.ones(b, f, 8, h, w), torch.ones(b), torch.ones(b, 1, 16), torch.ones(b, 3)
    total, by_module = torch_counts(theirs, lambda: theirs(*inputs))
    saved = [count for name, count in by_module.items() if name.endswith((".attn2", ".time_emb_proj", ".upsamplers.0"))]
    once_a_clip = sum(
        2 * b * module.weight.numel()
        for name, module in theirs.named_modules()
        if name.endswith((".attn2.to_v", ".attn2.to_out.0", ".time_emb_proj"))
    )
    assert len(saved) == 2 * 4 + 2 * 8 + 1  # 4 transformers, 8 residual blocks, spatial and temporal, and an upsampler
    assert min(saved) > 0
    ours = flops.count(
        lambda unet, *args: unet(*args),
        abstract(UNet, SMALL_UNET, "float32"),
        *(array(b, f, h, w, 8), array(b), array(b, 1, 16), array(b, 3)),
    )
    assert ours == total - sum(saved) + once_a_clip + upsampler(b * f, h // 2, w // 2, 64)


def test_vae_against_pytorch():
    config = VAEConfig(block_out_channels=(32, 64), layers_per_block=2)
    theirs = AutoencoderKLTemporalDecoder(
        block_out_channels=config.block_out_channels,  # pyright: ignore[reportArgumentType]  # annotated as one-element tuples
        layers_per_block=config.layers_per_block,
        down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
    )
    total, by_module = torch_counts(theirs, lambda: theirs.decode(torch.ones(3, 4, 8, 12), num_frames=3))
    saved = sum(count for name, count in by_module.items() if name.endswith(".upsamplers.0"))
    ours = flops.count(lambda vae, z: vae.decode(z), abstract(VAE, config, "float32"), array(1, 3, 8, 12, 4))
    assert ours == total - saved + upsampler(3, 8, 12, 64)


def test_full_size_savings():
    """SVD-XT at 25 frames of 1024x576: 79.95 TFLOP in PyTorch. Cross-attention to one token saves 2.99, upsampling 1.99."""
    unet = abstract(UNet, UNetConfig(), "bfloat16")
    args = array(1, 25, 72, 128, 8), array(1), array(1, 1, 1024), array(1, 3)
    count = flops.count(lambda unet, *args: unet(*args), unet, *args)
    # the three numbers are rounded to 0.01 TFLOP each
    assert abs(count - (79.95e12 - 2.99e12 - 1.99e12)) < 0.02e12


def test_shares_of_devices():
    """Every device of a mesh computes its share: together as much as one device alone."""
    mesh = AbstractMesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    product = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(jax.P("rows"), jax.P()), out_specs=jax.P("rows"))
    assert flops.count(product, array(8, 4), array(4, 6)) == 2 * 8 * 4 * 6
