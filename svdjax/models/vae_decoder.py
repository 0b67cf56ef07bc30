"""The VAE's temporal decoder: exact for a whole clip, in bounded memory. Channels last: (b, f, h, w, c).

The decoder alternates two kinds of work. Spatial layers see one frame at a time, so they run over blocks of frames.
Temporal resnets see one pixel at a time, apart from the statistics of their norms, which span the clip: they run over
blocks of image rows, given those statistics. Each kind writes its result over its input where shapes allow, and layers
between two temporal resnets are one stage, so that no tensor wider than a resnet's output is stored for all frames. What
remains is about one full-size activation of the narrowest level. A stage that fits `block_bytes` whole is not divided.

Paths and constants: diffusers' `TemporalDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from svdjax.config import VAEConfig
from svdjax.memory.blocking import block_size, stats_dtype
from svdjax.models.convolution import Conv, TemporalConv
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import SpatioTemporalResBlock, Upsample
from svdjax.models.vae_encoder import EPS, AttentionBlock

TEMPORAL_EPS = 1e-5
TEMPORAL_LIVE = 8  # tensors the size of its input that a temporal resnet holds at once, about
FRAMES, ROWS = 1, 2  # axes of (b, f, h, w, c)

Layer = Callable[[Array], Array]


def _resnets(in_channels: int, out_channels: int, count: int, **kw: Any) -> nnx.List:
    widths = (in_channels,) + (out_channels,) * (count - 1)
    return nnx.List(
        [SpatioTemporalResBlock(width, out_channels, None, EPS, TEMPORAL_EPS, switched=True, **kw) for width in widths]
    )


class DecoderMidBlock(nnx.Module):
    """Resnet, attention, resnet. The attention has weights but no use when there is a single resnet."""

    def __init__(self, channels: int, layers: int, **kw: Any):
        self.resnets = _resnets(channels, channels, layers, **kw)
        self.attentions = nnx.List([AttentionBlock(channels, **kw)])

    def layers(self) -> Iterator[nnx.Module]:
        yield self.resnets[0]
        # One attention only, so that of three or more resnets the third and later are never reached, as in diffusers.
        for attention, resnet in zip(self.attentions, list(self.resnets)[1:], strict=False):
            yield from (attention, resnet)


class DecoderBlock(nnx.Module):
    """One resolution level: resnets, then twice the size unless it is the last."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, last: bool, **kw: Any):
        self.resnets = _resnets(in_channels, out_channels, layers, **kw)
        self.upsamplers = nnx.List([] if last else [Upsample(out_channels, **kw)])

    def layers(self) -> Iterator[nnx.Module]:
        yield from (*self.resnets, *self.upsamplers)


class TemporalDecoder(nnx.Module):
    """Latents of a clip to its frames."""

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
        # Three channels cost nothing in float32, and 16 bits would cost a quarter of a grey level.
        picture = kw | {"dtype": stats_dtype(kw["dtype"])}
        self.conv_out = Conv(widths[-1], config.out_channels, **picture)
        self.time_conv_out = TemporalConv(config.out_channels, config.out_channels, **picture)

    def layers(self) -> Iterator[nnx.Module]:
        """Every layer between `conv_in` and `conv_norm_out`, in order."""
        yield from self.mid_block.layers()
        for block in self.up_blocks:
            yield from block.layers()

    def __call__(self, latents: Array, block_bytes: int) -> Array:
        """(b, f, h, w, c) -> (b, f, H, W, 3) in at least float32, with intermediates of about `block_bytes` bytes."""
        x = latents
        stage: list[Layer] = [self.conv_in]  # spatial layers not yet run
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
    """Spatial `layers` one after the other: (b, f, h, w, c) -> (b, f, h', w', c')."""

    def run(x: Array) -> Array:
        for layer in layers:
            x = layer(x)
        return x

    out = x
    widest = 0  # elements of the largest tensor between two layers
    for layer in layers:
        out = jax.eval_shape(lambda x, layer=layer: layer(x), out)
        widest = max(widest, out.size)
    frames = x.shape[FRAMES]
    size = block_size(frames, widest // frames * stats_dtype(out.dtype).itemsize, block_bytes)
    if size == frames:
        return run(x)
    if (out.shape, out.dtype) == (x.shape, x.dtype):
        return write_blocks(run, None, x, FRAMES, size)
    # Every entry is overwritten. A fill that depends on `x` keeps the buffer from existing before `x` does.
    return write_blocks(run, x, jnp.full(out.shape, x[0, 0, 0, 0, 0], out.dtype), FRAMES, size)


def temporal_over_rows(block: SpatioTemporalResBlock, x: Array, block_bytes: int) -> Array:
    """The temporal half of `block`, blended with its input: (b, f, h, w, c) -> (b, f, h, w, c).

    Undivided it is `time_mixer(x, temporal_res_block(x))`; divided, the same, with the first convolution computed twice
    (once for the statistics of the second norm) rather than stored.
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
    """`norm.statistics` of `fn(x)` over the whole clip, from blocks of `size` rows.

    Blocks are equally large, so the mean is the mean of their means, and the variance the mean of their variances plus
    the variance of their means: no sums of squares that cancel.
    """

    def of_block(i: Array) -> tuple[Array, Array]:
        return norm.statistics(fn(lax.dynamic_slice_in_dim(x, i * size, size, ROWS)), (-4, -3, -2))

    means, variances = lax.map(of_block, jnp.arange(x.shape[ROWS] // size))
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)


def write_blocks(fn: Layer, source: Array | None, out: Array, axis: int, size: int) -> Array:
    """`out` with `fn` of each block of `size` entries along `axis` of `source` in its place.

    Without a source the blocks are those of `out` itself, so that the loop needs one buffer.
    """

    def body(i: Array, out: Array) -> Array:
        block = lax.dynamic_slice_in_dim(out if source is None else source, i * size, size, axis)
        return lax.dynamic_update_slice_in_dim(out, fn(block), i * size, axis)

    return lax.fori_loop(0, out.shape[axis] // size, body, out)
