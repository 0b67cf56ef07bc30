"""Temporal decoder of the VAE: exact for a whole clip, in bounded memory. Channels last: (b, f, h, w, c).

The decoder alternates between two kinds of layers:
- Spatial layers depend on one frame at a time. They run over blocks of frames.
- Temporal resnets depend on one pixel at a time, except for their norm statistics, which span the clip. They run over
  blocks of image rows, with statistics computed beforehand.

The result overwrites the input where shapes allow. All spatial layers between two temporal resnets run as one stage, so no
tensor wider than a resnet's output is stored for all frames. The memory needed is about one full-size activation of the
narrowest level. A stage that fits into `block_bytes` is not divided.

Parameter paths and constants as in diffusers' `TemporalDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from svdjax.config import VAEConfig
from svdjax.memory.blocking import block_size
from svdjax.memory.precision import stats_dtype
from svdjax.models.convolution import Conv, TemporalConv
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import SpatioTemporalResBlock, Upsample
from svdjax.models.vae_encoder import EPS, AttentionBlock

TEMPORAL_EPS = 1e-5
TEMPORAL_LIVE = 8  # approximate number of tensors of its input's size alive at once in a temporal resnet
FRAMES, ROWS = 1, 2  # axes of (b, f, h, w, c)

Layer = Callable[[Array], Array]


def _resnets(in_channels: int, out_channels: int, count: int, **kw: Any) -> nnx.List:
    widths = (in_channels,) + (out_channels,) * (count - 1)
    return nnx.List(
        [SpatioTemporalResBlock(width, out_channels, None, EPS, TEMPORAL_EPS, switched=True, **kw) for width in widths]
    )


class DecoderMidBlock(nnx.Module):
    """Resnet, attention, resnet. With a single resnet the attention has weights but is not used."""

    def __init__(self, channels: int, layers: int, **kw: Any):
        self.resnets = _resnets(channels, channels, layers, **kw)
        self.attentions = nnx.List([AttentionBlock(channels, **kw)])

    def layers(self) -> Iterator[nnx.Module]:
        """The layers that run, in order."""
        yield self.resnets[0]
        # There is only one attention, so only two resnets ever run, as in diffusers.
        for attention, resnet in zip(self.attentions, list(self.resnets)[1:], strict=False):
            yield from (attention, resnet)


class DecoderBlock(nnx.Module):
    """A level: resnets, then an upsampler, except on the last level."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, last: bool, **kw: Any):
        self.resnets = _resnets(in_channels, out_channels, layers, **kw)
        self.upsamplers = nnx.List([] if last else [Upsample(out_channels, **kw)])

    def layers(self) -> Iterator[nnx.Module]:
        """The layers in order."""
        yield from (*self.resnets, *self.upsamplers)


class TemporalDecoder(nnx.Module):
    """Decodes the latents of clips to frames."""

    def __init__(self, config: VAEConfig, **kw: Any):
        widths = config.block_out_channels[::-1]
        self.conv_in = Conv(config.latent_channels, widths[0], **kw)
        self.mid_block = DecoderMidBlock(widths[0], config.layers_per_block, **kw)
        self.up_blocks = nnx.List(
            [
                DecoderBlock(widths[max(i - 1, 0)], width, config.layers_per_block + 1, i == len(widths) - 1, **kw)
                for i, width in enumerate(widths)
            ]
        )
        self.conv_norm_out = GroupNorm(widths[-1], EPS, **kw)
        # At least float32: it costs nothing for three channels, and 16 bits would add an error of a quarter of a grey level.
        picture: dict[str, Any] = kw | {"dtype": stats_dtype(kw["dtype"])}
        self.conv_out = Conv(widths[-1], config.out_channels, **picture)
        self.time_conv_out = TemporalConv(config.out_channels, config.out_channels, **picture)

    def layers(self) -> Iterator[nnx.Module]:
        """The layers between `conv_in` and `conv_norm_out`, in order."""
        yield from self.mid_block.layers()
        for block in self.up_blocks:
            yield from block.layers()

    def __call__(self, latents: Array, block_bytes: int) -> Array:
        """(b, f, h, w, c) -> (b, f, H, W, 3) in at least float32, with intermediates of about `block_bytes` bytes."""
        x = latents
        stage: list[Layer] = [self.conv_in]  # spatial layers that have not run yet
        for layer in self.layers():
            if isinstance(layer, SpatioTemporalResBlock):
                x = over_frames([*stage, layer.spatial_res_block], x, block_bytes)
                x = temporal_over_rows(layer, x, block_bytes)
                stage = []
            else:
                stage.append(layer)
        x = over_frames([*stage, self.conv_norm_out, jax.nn.silu, self.conv_out], x, block_bytes)
        return self.time_conv_out(x)


def over_frames(layers: Sequence[Layer], x: Array, block_bytes: int) -> Array:
    """Spatial `layers` in sequence, over blocks of frames: (b, f, h, w, c) -> (b, f, h', w', c')."""

    def run(x: Array) -> Array:
        for layer in layers:
            x = layer(x)
        return x

    out = x
    widest = 0  # elements of the largest output of a layer
    for layer in layers:
        out = jax.eval_shape(lambda x, layer=layer: layer(x), out)
        widest = max(widest, out.size)
    frames = x.shape[FRAMES]
    size = block_size(frames, widest // frames * stats_dtype(out.dtype).itemsize, block_bytes)
    if size == frames:
        return run(x)
    if (out.shape, out.dtype) == (x.shape, x.dtype):
        return write_blocks(run, None, x, FRAMES, size)
    # The fill is overwritten everywhere. It depends on `x`, so that the buffer is not allocated before `x` exists.
    return write_blocks(run, x, jnp.full(out.shape, x[0, 0, 0, 0, 0], out.dtype), FRAMES, size)


def temporal_over_rows(block: SpatioTemporalResBlock, x: Array, block_bytes: int) -> Array:
    """The temporal half of `block`, blended with its input, over blocks of rows: (b, f, h, w, c) -> (b, f, h, w, c).

    Equal to `time_mixer(x, temporal_res_block(x))`. In blocks, the first convolution is computed twice instead of stored:
    the first time for the statistics of the second norm.
    """
    resnet, mix = block.temporal_res_block, block.time_mixer
    rows = x.shape[ROWS]
    size = block_size(rows, TEMPORAL_LIVE * x.size // rows * stats_dtype(x.dtype).itemsize, block_bytes)
    if size == rows:
        return mix(x, resnet(x))

    statistics1 = clip_statistics(resnet.norm1, lambda x: x, x, size)

    def hidden(x: Array) -> Array:
        return resnet.conv1(jax.nn.silu(resnet.norm1.normalize(x, *statistics1)))

    statistics2 = clip_statistics(resnet.norm2, hidden, x, size)

    def run(x: Array) -> Array:
        h = jax.nn.silu(resnet.norm2.normalize(hidden(x), *statistics2))
        return mix(x, x + resnet.conv2(h))

    return write_blocks(run, None, x, ROWS, size)


def clip_statistics(norm: GroupNorm, fn: Layer, x: Array, size: int) -> tuple[Array, Array]:
    """`norm.statistics` of `fn(x)` over the whole clip, computed from blocks of `size` rows.

    All blocks have the same size, so the mean is the mean of the blocks' means. The variance is the mean of their variances
    plus the variance of their means, which avoids the cancellation of a formula with sums of squares.
    """

    def block_statistics(i: Array) -> tuple[Array, Array]:
        return norm.statistics(fn(lax.dynamic_slice_in_dim(x, i * size, size, ROWS)), (-4, -3, -2))

    means, variances = lax.map(block_statistics, jnp.arange(x.shape[ROWS] // size))
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)


def write_blocks(fn: Layer, source: Array | None, out: Array, axis: int, size: int) -> Array:
    """Apply `fn` to each block of `size` entries of `source` along `axis`, and write the results to the same place in `out`.

    Without a source, `out` is both input and output, so that the loop needs a single buffer.
    """

    def body(i: Array, out: Array) -> Array:
        block = lax.dynamic_slice_in_dim(out if source is None else source, i * size, size, axis)
        return lax.dynamic_update_slice_in_dim(out, fn(block), i * size, axis)

    return lax.fori_loop(0, out.shape[axis] // size, body, out)
