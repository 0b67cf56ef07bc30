"""Stages of the VAE's decoder: exact for a whole clip, in bounded memory. Channels last: (b, f, h, w, c).

The decoder alternates between two kinds of layers:
- Spatial layers depend on one frame at a time. They run over blocks of frames.
- Temporal resnets depend on one pixel at a time, except for their norm statistics, which span the clip. They run over
  blocks of image rows, with statistics computed beforehand.

The result overwrites the input where shapes allow. All spatial layers between two temporal resnets run as one stage, so no
tensor wider than a resnet's output is stored for all frames. The memory needed is about one full-size activation of the
narrowest level. A stage that fits into `block_bytes` is not divided. As one program, `svdjax.models.vae.TemporalDecoder`
also keeps the input of the widest stage; `svdjax.decoding.staged_decode` runs the same stages as several programs in less
memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from svdjax.memory.blocking import block_size
from svdjax.memory.precision import stats_dtype
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import AlphaBlender, ResnetBlock

TEMPORAL_LIVE = 8  # approximate number of tensors of its input's size alive at once in a temporal resnet
FRAMES, ROWS = 1, 2  # axes of (b, f, h, w, c)
CLIP_AXES = (-4, -3, -2)  # axes of norm statistics that span the clip

Layer = Callable[[Array], Array]
Statistics = tuple[Array, Array]  # mean and variance, from `GroupNorm.statistics`
SILU = jax.tree_util.Partial(jax.nn.silu)  # a layer that can be an argument of a compiled program, as modules are


class TemporalHalf(NamedTuple):
    """The temporal half of a resnet: `mix(x, resnet(x))`, in parts for computation in blocks of rows."""

    resnet: ResnetBlock
    mix: AlphaBlender

    def __call__(self, x: Array) -> Array:
        """(b, f, h, w, c) -> (b, f, h, w, c)."""
        return self.mix(x, self.resnet(x))

    def hidden(self, x: Array, statistics1: Statistics) -> Array:
        """The first convolution's result for some rows of the clip, from the statistics of the first norm."""
        return self.resnet.conv1(jax.nn.silu(self.resnet.norm1.normalize(x, *statistics1)))

    def change(self, hidden: Array, statistics2: Statistics) -> Array:
        """The second convolution's result for some rows, from the first's and the statistics of the second norm."""
        return self.resnet.conv2(jax.nn.silu(self.resnet.norm2.normalize(hidden, *statistics2)))

    def output(self, x: Array, change: Array) -> Array:
        """The block's result for some rows or frames, from its input and the second convolution's result."""
        return self.mix(x, x + change)


class Stage(NamedTuple):
    """Spatial layers, then the temporal half of a resnet; the last stage has none."""

    layers: tuple[Layer, ...]
    temporal: TemporalHalf | None


def run_layers(layers: Sequence[Layer], x: Array) -> Array:
    """`layers` in sequence."""
    for layer in layers:
        x = layer(x)
    return x


def bytes_per_frame(layers: Sequence[Layer], x: Any) -> int:
    """Size of the largest output of `layers` for one frame of `x`, an array or its shape (b, f, h, w, c)."""
    widest = 0
    for layer in layers:
        x = jax.eval_shape(lambda layer, x: layer(x), layer, x)  # the weights may be shapes
        widest = max(widest, x.size)
    return widest // x.shape[FRAMES] * stats_dtype(x.dtype).itemsize


def rows_per_block(x: Any, block_bytes: int) -> int:
    """Rows of each block of a temporal half; `x` is an array or its shape (b, f, h, w, c)."""
    rows = x.shape[ROWS]
    return block_size(rows, TEMPORAL_LIVE * x.size // rows * stats_dtype(x.dtype).itemsize, block_bytes)


def over_frames(layers: Sequence[Layer], x: Array, block_bytes: int) -> Array:
    """Spatial `layers` in sequence, over blocks of frames: (b, f, h, w, c) -> (b, f, h', w', c')."""

    def run(x: Array) -> Array:
        return run_layers(layers, x)

    out = jax.eval_shape(run, x)
    frames = x.shape[FRAMES]
    size = block_size(frames, bytes_per_frame(layers, x), block_bytes)
    if size == frames:
        return run(x)
    if (out.shape, out.dtype) == (x.shape, x.dtype):
        return write_blocks(run, None, x, FRAMES, size)
    # The fill is overwritten everywhere. It depends on `x`, so that the buffer is not allocated before `x` exists.
    return write_blocks(run, x, jnp.full(out.shape, x[0, 0, 0, 0, 0], out.dtype), FRAMES, size)


def temporal_over_rows(temporal: TemporalHalf, x: Array, block_bytes: int) -> Array:
    """`temporal(x)` over blocks of rows: (b, f, h, w, c) -> (b, f, h, w, c)."""
    size = rows_per_block(x, block_bytes)
    if size == x.shape[ROWS]:
        return temporal(x)
    statistics1 = clip_statistics(temporal.resnet.norm1, lambda x: x, (x,), size)
    return temporal_in_place(temporal, (x,), statistics1, size)[0]


def temporal_in_place(
    temporal: TemporalHalf, frames: tuple[Array, ...], statistics1: Statistics, size: int, store: bool = False
) -> tuple[Array, ...]:
    """`temporal` of a clip in blocks of `size` rows, written over its input.

    Args:
        frames: the clip, as groups of consecutive frames (b, n, h, w, c).
        statistics1: statistics of the first norm.
        store: keep the first convolution's result, which is as large as the clip. Otherwise it is computed twice: the first
            time for the statistics of the second norm.
    """
    blocks = frames[0].shape[ROWS] // size

    def hidden(x: Array) -> Array:
        return temporal.hidden(x, statistics1)

    kept = None
    if store:

        def stored(i: Array) -> tuple[Array, Statistics]:
            h = hidden(rows_of(frames, i, size))
            return h, temporal.resnet.norm2.statistics(h, CLIP_AXES)

        kept, statistics = lax.map(stored, jnp.arange(blocks))
        statistics2 = combine(*statistics)
    else:
        statistics2 = clip_statistics(temporal.resnet.norm2, hidden, frames, size)

    def body(i: Array, frames: tuple[Array, ...]) -> tuple[Array, ...]:
        change = temporal.change(hidden(rows_of(frames, i, size)) if kept is None else kept[i], statistics2)
        borders = list(itertools.accumulate(x.shape[FRAMES] for x in frames))

        def write(x: Array, change: Array) -> Array:
            y = temporal.output(lax.dynamic_slice_in_dim(x, i * size, size, ROWS), change)
            return lax.dynamic_update_slice_in_dim(x, y, i * size, ROWS)

        return tuple(map(write, frames, jnp.split(change, borders[:-1], FRAMES)))

    return lax.fori_loop(0, blocks, body, frames)


def rows_of(frames: Sequence[Array], i: Array, size: int) -> Array:
    """Block `i` of `size` rows of a clip given as groups of frames: (b, f, size, w, c)."""
    return jnp.concatenate([lax.dynamic_slice_in_dim(x, i * size, size, ROWS) for x in frames], FRAMES)


def clip_statistics(norm: GroupNorm, fn: Layer, frames: Sequence[Array], size: int) -> Statistics:
    """`norm.statistics` of `fn(x)` over the whole clip, computed from blocks of `size` rows of `frames`."""

    def block_statistics(i: Array) -> Statistics:
        return norm.statistics(fn(rows_of(frames, i, size)), CLIP_AXES)

    return combine(*lax.map(block_statistics, jnp.arange(frames[0].shape[ROWS] // size)))


def combine(means: Array, variances: Array) -> Statistics:
    """Statistics of a whole from those of blocks of one size, stacked on the first axis.

    The mean is the mean of the blocks' means. The variance is the mean of their variances plus the variance of their means,
    which avoids the cancellation of a formula with sums of squares.
    """
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)


def combined(statistics: Sequence[Statistics]) -> Statistics:
    """Statistics of the clip from those of its parts of one size."""
    means, variances = zip(*statistics, strict=True)
    return combine(jnp.stack(means), jnp.stack(variances))


def write_blocks(fn: Layer, source: Array | None, out: Array, axis: int, size: int) -> Array:
    """Apply `fn` to each block of `size` entries of `source` along `axis`, and write the results to the same place in `out`.

    Without a source, `out` is both input and output, so that the loop needs a single buffer.
    """

    def body(i: Array, out: Array) -> Array:
        block = lax.dynamic_slice_in_dim(out if source is None else source, i * size, size, axis)
        return lax.dynamic_update_slice_in_dim(out, fn(block), i * size, axis)

    return lax.fori_loop(0, out.shape[axis] // size, body, out)


def spatial_block(
    layers: tuple[Layer, ...], norm: GroupNorm | None, group: Array, number: Array, *, frames: int
) -> tuple[Array, Statistics | None]:
    """Spatial layers on some frames of a group, and the statistics of the result for the norm that follows.

    Args:
        group: (1, n, h, w, c).
        number: which of the n / `frames` parts of the group.
    """
    x = run_layers(layers, lax.dynamic_slice_in_dim(group, number * frames, frames, FRAMES))
    return x, None if norm is None else norm.statistics(x, CLIP_AXES)


def temporal_clip(
    temporal: TemporalHalf, groups: tuple[Array, ...], statistics: Sequence[Statistics], *, size: int, store: bool
) -> tuple[Array, ...]:
    """The temporal half of a resnet for a whole clip, from each group's statistics: the result overwrites `groups`."""
    return temporal_in_place(temporal, groups, combined(statistics), size, store)


def hidden_statistics(temporal: TemporalHalf, rows: Array, first: Sequence[Statistics]) -> Statistics:
    """Statistics of the second norm for a block of rows, from the first norm's statistics of each group of frames."""
    return temporal.resnet.norm2.statistics(temporal.hidden(rows, combined(first)), CLIP_AXES)


def temporal_rows(temporal: TemporalHalf, rows: Array, first: Sequence[Statistics], second: Sequence[Statistics]) -> Array:
    """The temporal half of a resnet for a block of rows.

    Args:
        temporal: the temporal half.
        rows: the block (b, f, size, w, c).
        first: statistics of the first norm, for each group of frames.
        second: statistics of the second norm, for each block of rows.
    """
    hidden = temporal.hidden(rows, combined(first))
    return temporal.output(rows, temporal.change(hidden, combined(second)))
