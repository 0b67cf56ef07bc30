"""Residual blocks, spatial and temporal, and the layers between resolutions. Channels last: (b, f, h, w, c)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.memory.blocking import stats_dtype
from svdjax.models.convolution import Conv, TemporalConv, convolve
from svdjax.models.initialize import Keys
from svdjax.models.layers import GroupNorm, Linear


class ResnetBlock(nnx.Module):
    """norm, SiLU, 3x3 convolution, time embedding, norm, SiLU, 3x3 convolution, shortcut: diffusers' ResnetBlock2D.

    The temporal blocks are the same with convolutions over frames and statistics over the clip: `temporal=True`.
    `temb_channels=None` leaves the time embedding out, as the VAE does.
    """

    def __init__(
        self, in_channels: int, out_channels: int, temb_channels: int | None, eps: float, *, temporal: bool = False, **kw: Any
    ):
        conv = TemporalConv if temporal else Conv
        self.axes = (-4, -3, -2) if temporal else (-3, -2)
        self.norm1 = GroupNorm(in_channels, eps, **kw)
        self.conv1 = conv(in_channels, out_channels, **kw)
        self.time_emb_proj = Linear(temb_channels, out_channels, **kw) if temb_channels else None
        self.norm2 = GroupNorm(out_channels, eps, **kw)
        self.conv2 = conv(out_channels, out_channels, **kw)
        self.conv_shortcut = Conv(in_channels, out_channels, 1, **kw) if in_channels != out_channels else None

    def __call__(self, x: Array, temb: Array | None = None) -> Array:
        """x (b, f, h, w, c), temb (b, c_t) after its SiLU -> (b, f, h, w, c')."""
        h = self.conv1(jax.nn.silu(self.norm1(x, self.axes)))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(temb)[:, None, None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h, self.axes)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class AlphaBlender(nnx.Module):
    """Blend of spatial and temporal features by one learned factor.

    `switched` exchanges the two, as the VAE's decoder does (diffusers: `switch_spatial_to_temporal_mix`).
    """

    def __init__(self, switched: bool, *, dtype: Any, param_dtype: Any, rngs: Keys):
        del rngs
        self.mix_factor = nnx.Param(jnp.full((1,), 0.0 if switched else 0.5, param_dtype))
        self.switched = switched
        self.dtype = dtype

    def __call__(self, spatial: Array, temporal: Array) -> Array:
        mix = self.mix_factor[...]
        alpha = jax.nn.sigmoid(mix.astype(stats_dtype(mix.dtype))).astype(self.dtype)
        return (1 - alpha) * spatial + alpha * temporal if self.switched else alpha * spatial + (1 - alpha) * temporal


class SpatioTemporalResBlock(nnx.Module):
    """A spatial ResnetBlock, then a temporal one, blended."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int | None,
        eps: float,
        temporal_eps: float | None = None,
        switched: bool = False,
        **kw: Any,
    ):
        self.spatial_res_block = ResnetBlock(in_channels, out_channels, temb_channels, eps, **kw)
        self.temporal_res_block = ResnetBlock(
            out_channels, out_channels, temb_channels, eps if temporal_eps is None else temporal_eps, temporal=True, **kw
        )
        self.time_mixer = AlphaBlender(switched, **kw)

    def __call__(self, x: Array, temb: Array | None = None) -> Array:
        x = self.spatial_res_block(x, temb)
        return self.time_mixer(x, self.temporal_res_block(x, temb))


class Downsample(nnx.Module):
    """A 3x3 convolution of stride 2. `padding` is the UNet's symmetric one unless given (the VAE's is ((0, 1), (0, 1)))."""

    def __init__(self, channels: int, padding: Any = None, **kw: Any):
        self.conv = Conv(channels, channels, stride=2, padding=padding, **kw)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest neighbour to twice the size, then a 3x3 convolution: both as one 2x2 convolution of the small image.

    Of the three rows that the convolution would read, two are copies of one small row: rows i-1 and i of the small image
    give row 2i, with taps (k0, k1 + k2), and rows i and i+1 give row 2i + 1, with taps (k0 + k1, k2); so too for columns.
    This is exact but for rounding, with 4/9 of the products.
    """

    def __init__(self, channels: int, **kw: Any):
        self.conv = Conv(channels, channels, **kw)

    def __call__(self, x: Array) -> Array:
        """(..., h, w, c) -> (..., 2h, 2w, c)."""
        *lead, h, w, c = x.shape
        dtype = self.conv.dtype

        def taps(kernel: Array, axis: int) -> list[Array]:
            k0, k1, k2 = jnp.split(kernel, 3, axis)
            return [jnp.concatenate([k0, k1 + k2], axis), jnp.concatenate([k0 + k1, k2], axis)]

        kernel = self.conv.kernel[...]
        kernel = kernel.astype(stats_dtype(kernel.dtype))
        # (2, 2, c, 4c'): one output for each of the four pixels that a small pixel becomes
        kernel = jnp.concatenate([k for rows in taps(kernel, 0) for k in taps(rows, 1)], -1).astype(dtype)
        y = convolve(x.astype(dtype).reshape(-1, h, w, c), kernel, 1, ((1, 1), (1, 1)))
        y = y.reshape(-1, h + 1, w + 1, 2, 2, c)
        # output (i, j) of the 2x2 grid comes from the windows that start i rows and j columns further on
        rows = [jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in (0, 1)], axis=3) for i in (0, 1)]
        return jnp.stack(rows, axis=2).reshape(*lead, 2 * h, 2 * w, c) + self.conv.bias[...].astype(dtype)
