"""Steps of a staged decode: programs that run on the device, and where activations are between them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from svdjax.config import VAEConfig
from svdjax.devices.target import target
from svdjax.devices.xla_options import channels_last_options
from svdjax.memory.blocking import block_size
from svdjax.memory.programs import Program, bytes_of
from svdjax.models.convolution import TemporalConv
from svdjax.models.initialize import abstract
from svdjax.models.layers import GroupNorm
from svdjax.models.vae import VAE
from svdjax.models.vae_stages import (
    FRAMES,
    ROWS,
    Layer,
    TemporalHalf,
    bytes_per_frame,
    hidden_statistics,
    rows_per_block,
    run_layers,
    spatial_block,
    temporal_clip,
    temporal_rows,
)


@dataclass(frozen=True, kw_only=True)
class DecodePlan:
    """How the frames of a clip are decoded. Every plan gives the same frames, except for rounding.

    Attributes:
        block_bytes: approximate size of the largest tensor that a program computes at a time.
        in_passes: activations larger than `resident_bytes` are kept in host memory; blocks of them are copied to the device
            in turn.
        resident_bytes: see `in_passes`; without it, no effect.
        temporal: how the temporal resnets of activations on the device run: `whole`, without blocks of rows, in three times
            the memory of the largest activation; `stored`, in blocks, with the first convolution's result stored, in twice the
            memory; `twice`, in blocks, with the first convolution computed twice.
    """

    block_bytes: int
    in_passes: bool = False
    resident_bytes: int = 0
    temporal: Literal["whole", "stored", "twice"] = "twice"


@dataclass(frozen=True, kw_only=True)
class Activation:
    """Shape and location of an activation of one clip.

    Attributes:
        shape: (1, f, h, w, c).
        frames: number of frames in each array on the device.
        in_host: whether it is kept in host memory.
    """

    shape: tuple[int, ...]
    dtype: Any
    frames: int
    in_host: bool = False

    @property
    def group(self) -> jax.ShapeDtypeStruct:
        """Shape of the frames that are in one array: (1, frames, h, w, c)."""
        return jax.ShapeDtypeStruct((1, self.frames, *self.shape[2:]), self.dtype)

    def rows(self, size: int) -> jax.ShapeDtypeStruct:
        """Shape of a block of rows: (1, f, size, w, c)."""
        return jax.ShapeDtypeStruct((*self.shape[:ROWS], size, *self.shape[ROWS + 1 :]), self.dtype)

    @property
    def nbytes(self) -> int:
        """Size of the whole activation."""
        return bytes_of(jax.ShapeDtypeStruct(self.shape, self.dtype))

    @property
    def group_bytes(self) -> int:
        """Size of one array."""
        return bytes_of(self.group)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of the decoder for one clip.

    Attributes:
        layers, temporal: see `svdjax.models.vae_stages.Stage`.
        source, result: activations before and after it. The spatial layers run on groups of `result.frames` frames.
        rows: rows of each block of the temporal half.
        store: whether the temporal half stores its first convolution's result.
    """

    layers: tuple[Layer, ...]
    temporal: TemporalHalf | None
    source: Activation
    result: Activation
    rows: int
    store: bool

    @property
    def norm(self) -> GroupNorm | None:
        """The norm of which the spatial layers' program computes the statistics."""
        return None if self.temporal is None else self.temporal.resnet.norm1

    @property
    def spatial_bytes(self) -> int:
        """Activations on the device while the spatial layers run, at most."""
        source, result = self.source, self.result
        if source.in_host or result.in_host:  # the next group arrives, and the last result leaves, during a program
            arriving = 2 * result.frames * source.group_bytes // source.frames if source.in_host else source.nbytes
            return arriving + (2 * result.group_bytes if result.in_host else result.nbytes)
        done = range(0, source.shape[FRAMES], result.frames)
        freed = [k // source.frames * source.group_bytes for k in done]
        written = [result.group_bytes * (k // result.frames + 1) for k in done]
        most = max(source.nbytes - a + b for a, b in zip(freed, written, strict=True))
        return most + source.group_bytes  # a group is freed when its program has finished, and the next has started

    @property
    def temporal_bytes(self) -> int:
        """Activations on the device while the temporal half runs, at most."""
        return 4 * bytes_of(self.result.rows(self.rows)) if self.result.in_host else self.result.nbytes

    @property
    def least_bytes(self) -> int:
        """Memory that the stage needs at least, without weights: activations, and what the temporal half keeps of its own."""
        kept = 2 if self.rows == self.result.shape[ROWS] else int(self.store)
        whole = 0 if self.temporal is None or self.result.in_host else kept * self.result.nbytes
        return max(self.spatial_bytes, self.temporal_bytes + whole)

    @property
    def transfer_bytes(self) -> int:
        """Bytes that the stage sends to the device or back."""
        source, result = (x.nbytes if x.in_host else 0 for x in (self.source, self.result))
        return source + result + (3 * result if self.temporal is not None else 0)

    def programs(self) -> Iterator[tuple[Program, int, int]]:
        """The programs, the size of the activations that are on the device while they run, and their number of runs."""
        groups = self.result.shape[FRAMES] // self.result.frames
        number = jax.ShapeDtypeStruct((), jnp.int32)
        group = self.source.group
        spatial = (self.layers, self.norm, group, number)
        program = Program(name="spatial", fn=jitted(spatial_block), args=spatial, static={"frames": self.result.frames})
        yield program, self.spatial_bytes, groups
        if self.temporal is None:
            return
        _, statistics = jax.eval_shape(functools.partial(spatial_block, frames=self.result.frames), *spatial)
        first = (statistics,) * groups
        if not self.result.in_host:
            args = self.temporal, (self.result.group,) * groups, first
            static = {"size": self.rows, "store": self.store}
            yield Program(name="temporal", fn=jitted(temporal_clip), args=args, static=static), self.temporal_bytes, 1
            return
        rows = self.result.rows(self.rows)
        blocks = self.result.shape[ROWS] // self.rows
        second = (statistics,) * blocks
        program = Program(name="statistics", fn=jitted(hidden_statistics), args=(self.temporal, rows, first))
        yield program, self.temporal_bytes, blocks
        program = Program(name="rows", fn=jitted(temporal_rows), args=(self.temporal, rows, first, second))
        yield program, self.temporal_bytes, blocks


def steps_of(vae: VAE, latent_shape: Sequence[int], plan: DecodePlan) -> Iterator[Step]:
    """The steps for one clip.

    Args:
        vae: its weights may be shapes only.
        latent_shape: (f, h, w, c).
        plan: see `DecodePlan`.
    """
    length, *image = latent_shape
    source = Activation(shape=(1, *latent_shape), dtype=jnp.dtype(jnp.float32), frames=length)
    shapes = _stage_shapes(vae.config, tuple(image), vae.decoder.conv_in.dtype)
    for (layers, temporal), (frame, widest) in zip(vae.decoder.stages(), shapes, strict=True):
        frames = block_size(source.frames, widest, plan.block_bytes)
        result = Activation(shape=(1, length, *frame.shape[2:]), dtype=frame.dtype, frames=frames)
        if plan.in_passes and result.nbytes > plan.resident_bytes and temporal is not None:
            result = replace(result, in_host=True)
        if source.in_host:  # its frames come in the groups that are computed
            source = replace(source, frames=frames)
        rows = result.shape[ROWS]
        if result.in_host or plan.temporal != "whole":
            rows = rows_per_block(jax.ShapeDtypeStruct(result.shape, result.dtype), plan.block_bytes)
        store = plan.temporal == "stored" and not result.in_host
        yield Step(layers=layers, temporal=temporal, source=source, result=result, rows=rows, store=store)
        source = result


@functools.cache
def abstract_vae(config: VAEConfig, dtype: Any) -> VAE:
    """A VAE of shapes only."""
    return abstract(VAE, config, dtype)


@functools.cache
def _stage_shapes(config: VAEConfig, image: tuple[int, ...], dtype: Any) -> list[tuple[jax.ShapeDtypeStruct, int]]:
    """For each stage the result for a single frame (1, 1, h, w, c), and the bytes of its largest tensor."""
    x = jax.ShapeDtypeStruct((1, 1, *image), jnp.float32)
    shapes = []
    for stage in abstract_vae(config, dtype).decoder.stages():
        widest = bytes_per_frame(stage.layers, x)
        x = jax.eval_shape(run_layers, stage.layers, x)
        shapes.append((x, widest))
    return shapes


def to_levels(images: Array) -> Array:
    """Convert floating point images in [-1, 1] to uint8, clipped and rounded as in diffusers' `VaeImageProcessor`."""
    return jnp.round(jnp.clip(images / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)


def finish(time_conv_out: TemporalConv, groups: tuple[Array, ...]) -> Array:
    """The last convolution over the frames, and the frames: uint8 (1, f, H, W, 3)."""
    return to_levels(time_conv_out(jnp.concatenate(groups, FRAMES)))


OPTIONS: dict[Any, dict[str, Any]] = {
    spatial_block: {"static_argnames": "frames"},
    temporal_clip: {"static_argnames": ("size", "store"), "donate_argnums": 1},
}


def jitted(fn: Any) -> Any:
    """`fn` compiled for the device that programs are made for."""
    return _jitted(fn, target())


@functools.cache
def _jitted(fn: Any, device: Any) -> Any:
    return jax.jit(fn, compiler_options=channels_last_options(), **OPTIONS.get(fn, {}))
