"""Image encoder of the VAE. Channels last: (b, h, w, c). Parameter paths and constants as in diffusers' `Encoder`."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax import Array

from svdjax.config import VAEConfig
from svdjax.models.convolution import Conv
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import Downsample, ResnetBlock
from svdjax.models.spatial_attention import SpatialAttention

EPS = 1e-6  # epsilon of every GroupNorm over single images


class AttentionBlock(SpatialAttention):
    """Single-head self-attention over the pixels of each image, with a norm before it and a residual connection."""

    def __init__(self, channels: int, **kw: Any):
        super().__init__(channels, heads=1, bias=True, **kw)
        self.group_norm = GroupNorm(channels, EPS, **kw)

    def __call__(self, x: Array) -> Array:
        """(..., h, w, c) -> (..., h, w, c)."""
        h, w, c = x.shape[-3:]
        pixels = self.group_norm(x).reshape(-1, h * w, c)
        return x + super().__call__(pixels).reshape(x.shape)


class EncoderBlock(nnx.Module):
    """A level: resnets, then a downsampler, except on the last level."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, last: bool, **kw: Any):
        widths = (in_channels,) + (out_channels,) * (layers - 1)
        self.resnets = nnx.List([ResnetBlock(width, out_channels, None, EPS, **kw) for width in widths])
        # Zeros only below and on the right, as in diffusers (`downsample_padding=0`).
        self.downsamplers = nnx.List([] if last else [Downsample(out_channels, pads=((0, 1), (0, 1)), **kw)])

    def __call__(self, x: Array) -> Array:
        """(b, h, w, c) -> (b, h/2, w/2, c'), the last level (b, h, w, c')."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class EncoderMidBlock(nnx.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, **kw: Any):
        self.resnets = nnx.List([ResnetBlock(channels, channels, None, EPS, **kw) for _ in range(2)])
        self.attentions = nnx.List([AttentionBlock(channels, **kw)])

    def __call__(self, x: Array) -> Array:
        """(b, h, w, c) -> (b, h, w, c)."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nnx.Module):
    """Maps images to the mean and log variance of their latents, before `quant_conv`."""

    def __init__(self, config: VAEConfig, **kw: Any):
        widths = config.block_out_channels
        self.conv_in = Conv(config.in_channels, widths[0], **kw)
        self.down_blocks = nnx.List(
            [
                EncoderBlock(widths[max(i - 1, 0)], width, config.layers_per_block, i == len(widths) - 1, **kw)
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = EncoderMidBlock(widths[-1], **kw)
        self.conv_norm_out = GroupNorm(widths[-1], EPS, **kw)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, **kw)

    def __call__(self, x: Array) -> Array:
        """(b, H, W, 3) -> (b, h, w, 2 * latent channels)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
