"""The spatio-temporal transformer of one UNet level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.memory.rematerialise import RunBlock
from svdjax.models.attention import OneTokenCrossAttention, SpatialAttention, TemporalAttention
from svdjax.models.backward import Backward
from svdjax.models.layers import FeedForward, GroupNorm, LayerNorm, Linear, TimestepEmbedding, timestep_embedding
from svdjax.models.resnet import AlphaBlender

Maps = dict[str, Array]  # temporal self-attention maps (b*h*w, n, f, f) by module path


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditions:
    """What every block of one UNet call is given besides its input.

    Attributes:
        temb: SiLU of the time embedding, (b, c_t).
        context: the CLIP image embedding, (b, 1, c_context).
        attn_maps: maps to use instead of the layers' own, by path.
        backward: set when the batch is [forward; backward]; its second half then runs as the backward direction.
        return_attn_maps: whether the maps are wanted back.
        run: how the resnets and transformers are run.
    """

    temb: Array
    context: Array
    attn_maps: Mapping[str, Array]
    backward: Backward | None
    return_attn_maps: bool = field(metadata={"static": True})
    run: RunBlock = field(metadata={"static": True})


class SpatialBlock(nnx.Module):
    """Self-attention within frames, cross-attention to the image embedding, feed-forward: diffusers' BasicTransformerBlock."""

    def __init__(self, dim: int, heads: int, context_dim: int, **kw: Any):
        self.norm1 = LayerNorm(dim, **kw)
        self.attn1 = SpatialAttention(dim, heads, **kw)
        self.norm2 = LayerNorm(dim, **kw)  # normalises the queries of attn2, which one token makes unnecessary
        self.attn2 = OneTokenCrossAttention(dim, context_dim, **kw)
        self.norm3 = LayerNorm(dim, **kw)
        self.ff = FeedForward(dim, **kw)

    def __call__(self, x: Array, cond: Conditions) -> Array:
        """(b, f, s, c) -> (b, f, s, c)."""
        b, f, s, c = x.shape
        x = x + self.attn1(self.norm1(x).reshape(b * f, s, c)).reshape(x.shape)
        x = x + self.attn2(cond.context)
        return x + self.ff(self.norm3(x))


class TemporalBlock(nnx.Module):
    """Feed-forward, self-attention over frames, cross-attention, feed-forward: diffusers' TemporalBasicTransformerBlock."""

    def __init__(self, dim: int, heads: int, context_dim: int, path: str, **kw: Any):
        self.norm_in = LayerNorm(dim, **kw)
        self.ff_in = FeedForward(dim, **kw)
        self.norm1 = LayerNorm(dim, **kw)
        self.attn1 = TemporalAttention(dim, heads, f"{path}.attn1", **kw)
        self.norm2 = LayerNorm(dim, **kw)  # as in SpatialBlock
        self.attn2 = OneTokenCrossAttention(dim, context_dim, **kw)
        self.norm3 = LayerNorm(dim, **kw)
        self.ff = FeedForward(dim, **kw)

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, Maps]:
        """(b, f, s, c) -> (b, f, s, c) and the maps of attn1, if wanted."""
        x = x + self.ff_in(self.norm_in(x))
        h = self.norm1(x)
        if cond.backward is None:
            h, maps = self.attn1(h, cond.attn_maps.get(self.attn1.path))
        else:
            h, maps = self.attn1.lockstep(h, cond.backward)
        x = x + h
        x = x + self.attn2(cond.context)
        x = x + self.ff(self.norm3(x))
        return x, {self.attn1.path: maps} if cond.return_attn_maps else {}


class TransformerSpatioTemporal(nnx.Module):
    """Spatial and temporal blocks in turn, blended: diffusers' TransformerSpatioTemporalModel."""

    def __init__(self, dim: int, heads: int, layers: int, context_dim: int, path: str, **kw: Any):
        self.norm = GroupNorm(dim, 1e-6, **kw)
        self.proj_in = Linear(dim, dim, **kw)
        self.transformer_blocks = nnx.List([SpatialBlock(dim, heads, context_dim, **kw) for _ in range(layers)])
        self.temporal_transformer_blocks = nnx.List(
            [TemporalBlock(dim, heads, context_dim, f"{path}.temporal_transformer_blocks.{i}", **kw) for i in range(layers)]
        )
        self.time_pos_embed = TimestepEmbedding(dim, 4 * dim, dim, **kw)
        self.time_mixer = AlphaBlender(switched=False, **kw)
        self.proj_out = Linear(dim, dim, **kw)

    def __call__(self, x: Array, cond: Conditions) -> tuple[Array, Maps]:
        """(b, f, h, w, c) -> (b, f, h, w, c) and the temporal maps, if wanted."""
        b, f, h, w, c = x.shape
        # pixels become one axis: (b, f, s, c)
        y = self.proj_in(self.norm(x).reshape(b, f, h * w, c))
        frame_numbers = jnp.arange(f, dtype=y.dtype if y.dtype == jnp.float64 else jnp.float32)
        frame_embedding = self.time_pos_embed(timestep_embedding(frame_numbers, c).astype(y.dtype))[None, :, None, :]
        maps: Maps = {}
        for spatial, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            y = spatial(y, cond)
            mixed, layer_maps = temporal(y + frame_embedding, cond)
            y = self.time_mixer(y, mixed)
            maps |= layer_maps
        return x + self.proj_out(y).reshape(x.shape), maps
