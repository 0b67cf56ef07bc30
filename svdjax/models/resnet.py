"""Residual blocks, spatial and temporal, and the layers that change the resolution. Channels last: (b, f, h, w, c)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.devices.division import Pads, with_neighbours
from svdjax.devices.target import target
from svdjax.memory.precision import stats_dtype
from svdjax.models.convolution import Conv, TemporalConv, convolve
from svdjax.models.initialize import Keys
from svdjax.models.layers import GroupNorm, Linear, hidden


class ResnetBlock(nnx.Module):
    """norm, SiLU, 3x3 convolution, time embedding, norm, SiLU, 3x3 convolution, shortcut (diffusers: ResnetBlock2D).

    Args of the constructor:
        temb_channels: width of the time embedding, or None for a block without it, as in the VAE.
        temporal: whether convolutions run over frames, and norm statistics span the clip.
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

    def __call__(self, x: Array, temb: Array | None = None, skip: Array | None = None, weight: Array | None = None) -> Array:
        """The shortcut plus the convolutions' result, times `weight` if that is given.

        Args:
            x: (b, f, h, w, c).
            temb: (b, c_t), after its SiLU.
            skip: (b, f, h, w, c''), channels that follow those of x.
            weight: (1,).

        Returns:
            (b, f, h, w, c').
        """
        h = self.conv1(jax.nn.silu(self.norm1(x, self.axes, skip=skip)))
        offset = None
        if self.time_emb_proj is not None:
            assert temb is not None
            # hidden: cuDNN would add the embedding, repeated for every pixel; the norm adds it while it reads
            h, offset = hidden(h), self.time_emb_proj(temb)[:, None, None, None, :]
        h = jax.nn.silu(self.norm2(h, self.axes, offset))
        if skip is not None and self.conv_shortcut is not None and target().nvidia:
            shortcut = self.conv_shortcut.of_parts(x, skip)
        else:
            shortcut = x if skip is None else jnp.concatenate([x, skip], axis=-1)
            shortcut = shortcut if self.conv_shortcut is None else self.conv_shortcut(shortcut)
        if weight is not None:
            h = h * weight
        return self.conv2(h, shortcut, weight)


class AlphaBlender(nnx.Module):
    """Blend of spatial and temporal features by a learned factor.

    Args of the constructor:
        switched: exchange the two weights, as in the VAE's decoder (diffusers: `switch_spatial_to_temporal_mix`).
    """

    def __init__(self, switched: bool, *, dtype: Any, param_dtype: Any, rngs: Keys):
        del rngs
        self.mix_factor = nnx.Param(jnp.full((1,), 0.0 if switched else 0.5, param_dtype))
        self.switched = switched
        self.dtype = dtype

    def __call__(self, spatial: Array, temporal: Array) -> Array:
        """(b, f, h, w, c) twice -> (b, f, h, w, c)."""
        alpha = self._alpha()
        return (1 - alpha) * spatial + alpha * temporal if self.switched else alpha * spatial + (1 - alpha) * temporal

    def temporal_weight(self) -> Array:
        """Weight of the temporal features, (1,)."""
        return self._alpha() if self.switched else 1 - self._alpha()

    def _alpha(self) -> Array:
        mix = self.mix_factor[...]
        return jax.nn.sigmoid(mix.astype(stats_dtype(mix.dtype))).astype(self.dtype)


class SpatioTemporalResBlock(nnx.Module):
    """A spatial ResnetBlock, then a temporal one, blended (diffusers: SpatioTemporalResBlock)."""

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

    def __call__(self, x: Array, temb: Array | None = None, skip: Array | None = None) -> Array:
        """x (b, f, h, w, c), temb (b, c_t) after its SiLU -> (b, f, h, w, c'); the channels of `skip` follow those of x."""
        x = self.spatial_res_block(x, temb, skip)
        # The blend of x with x plus the temporal convolutions is x plus those, weighted.
        return self.temporal_res_block(x, temb, weight=self.time_mixer.temporal_weight())


class Downsample(nnx.Module):
    """A 3x3 convolution of stride 2, with the UNet's symmetric padding by default."""

    def __init__(self, channels: int, pads: Pads | None = None, **kw: Any):
        self.conv = Conv(channels, channels, stride=2, pads=pads, **kw)

    def __call__(self, x: Array) -> Array:
        """(..., h, w, c) -> (..., h/2, w/2, c)."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest neighbour to twice the size, then a 3x3 convolution: computed as one 2x2 convolution of the small image.

    Two of the three rows that the 3x3 convolution reads are copies of one small row. So rows i-1 and i of the small image
    give row 2i, with taps (k0, k1 + k2), and rows i and i+1 give row 2i + 1, with taps (k0 + k1, k2). Columns are the same.
    This is exact except for rounding, with 4/9 of the products.
    """

    def __init__(self, channels: int, **kw: Any):
        self.conv = Conv(channels, channels, **kw)

    def __call__(self, x: Array) -> Array:
        """(..., h, w, c) -> (..., 2h, 2w, c)."""
        *lead, h, w, c = x.shape
        dtype = self.conv.dtype

        def merge_taps(kernel: Array, axis: int) -> list[Array]:
            """3 taps -> 2 taps, for even and for odd positions of the result."""
            k0, k1, k2 = jnp.split(kernel, 3, axis)
            return [jnp.concatenate([k0, k1 + k2], axis), jnp.concatenate([k0 + k1, k2], axis)]

        kernel = self.conv.kernel[...]
        kernel = kernel.astype(stats_dtype(kernel.dtype))
        # (2, 2, c, 4c): one output for each of the four pixels that a small pixel becomes
        kernel = jnp.concatenate([k for rows in merge_taps(kernel, 0) for k in merge_taps(rows, 1)], -1).astype(dtype)
        x, pads = with_neighbours(x.astype(dtype), 2, 1, ((1, 1), (1, 1)))
        y = convolve(x.reshape(-1, *x.shape[-3:]), kernel, 1, pads)
        y = y.reshape(-1, h + 1, w + 1, 2, 2, c)
        # result pixel (2y + i, 2x + j) is output (i, j) of the window at (y + i, x + j)
        rows = [jnp.stack([y[:, i : i + h, j : j + w, i, j] for j in (0, 1)], axis=3) for i in (0, 1)]
        return self.conv.add_bias(jnp.stack(rows, axis=2).reshape(*lead, 2 * h, 2 * w, c))
