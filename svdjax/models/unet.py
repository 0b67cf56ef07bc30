"""The spatio-temporal UNet of Stable Video Diffusion, with explicit temporal attention maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import jax
from flax import nnx
from jax import Array

from svdjax.config import UNetConfig
from svdjax.memory.rematerialise import RunBlock, run_plainly
from svdjax.models.backward import Backward
from svdjax.models.convolution import Conv
from svdjax.models.initialize import Keys
from svdjax.models.layers import GroupNorm, TimestepEmbedding, timestep_embedding
from svdjax.models.transformer import Conditions, Maps
from svdjax.models.unet_blocks import DownBlock, MidBlock, UpBlock


class UNet(nnx.Module):
    """Predicts v from noisy latents, an image embedding and three time ids (diffusers: UNetSpatioTemporalConditionModel).

    Args of the constructor:
        config: widths, depths, heads; any number of levels.
        dtype: compute dtype. Norm statistics, softmax and time embeddings are never below float32.
        param_dtype: dtype of the parameters.
        rngs: keys for a random initialisation.
    """

    def __init__(self, config: UNetConfig, *, dtype: Any, param_dtype: Any, rngs: Keys):
        kw = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        widths = config.block_out_channels
        temb_dim = 4 * widths[0]
        self.config = config
        self.dtype = dtype
        self.conv_in = Conv(config.in_channels, widths[0], **kw)
        self.time_embedding = TimestepEmbedding(widths[0], temb_dim, temb_dim, **kw)
        self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim, temb_dim, temb_dim, **kw)
        down_blocks, skip_channels = _down_blocks(config, temb_dim, kw)
        self.down_blocks = nnx.List(down_blocks)
        self.mid_block = MidBlock(widths[-1], temb_dim, _attention(config, len(widths) - 1), path="mid_block", **kw)
        self.up_blocks = nnx.List(_up_blocks(config, temb_dim, skip_channels, kw))
        self.conv_norm_out = GroupNorm(widths[0], 1e-5, **kw)
        self.conv_out = Conv(widths[0], config.out_channels, **kw)

    @overload
    def __call__(
        self,
        sample: Array,
        c_noise: Array,
        image_embeds: Array,
        added_time_ids: Array,
        *,
        attn_maps: Mapping[str, Array] | None = ...,
        backward: Backward | None = ...,
        return_attn_maps: Literal[False] = ...,
        run_block: RunBlock = ...,
        deep: Array | None = ...,
        return_deep: Literal[False] = ...,
    ) -> Array: ...

    @overload
    def __call__(
        self,
        sample: Array,
        c_noise: Array,
        image_embeds: Array,
        added_time_ids: Array,
        *,
        attn_maps: Mapping[str, Array] | None = ...,
        backward: Backward | None = ...,
        return_attn_maps: Literal[True],
        run_block: RunBlock = ...,
        deep: Array | None = ...,
        return_deep: Literal[False] = ...,
    ) -> tuple[Array, Maps]: ...

    @overload
    def __call__(
        self,
        sample: Array,
        c_noise: Array,
        image_embeds: Array,
        added_time_ids: Array,
        *,
        attn_maps: Mapping[str, Array] | None = ...,
        backward: Backward | None = ...,
        return_attn_maps: bool = ...,
        run_block: RunBlock = ...,
        deep: Array | None = ...,
        return_deep: bool = ...,
    ) -> Array | tuple[Any, ...]: ...

    def __call__(
        self,
        sample: Array,
        c_noise: Array,
        image_embeds: Array,
        added_time_ids: Array,
        *,
        attn_maps: Mapping[str, Array] | None = None,
        backward: Backward | None = None,
        return_attn_maps: bool = False,
        run_block: RunBlock = run_plainly,
        deep: Array | None = None,
        return_deep: bool = False,
    ) -> Array | tuple[Any, ...]:
        """One prediction for a batch of clips.

        Args:
            sample: (b, f, h, w, c_in), scaled noisy latents and image latents, concatenated along the channels.
            c_noise: (b,), 0.25 ln sigma.
            image_embeds: (b, 1, c), CLIP image embeddings; zeros for the unconditional prediction.
            added_time_ids: (b, 3): fps - 1, motion bucket id, noise augmentation strength.
            attn_maps: temporal self-attention maps to use instead of the layers' own. Maps the path of a layer, such as
                `mid_block.attentions.0.temporal_transformer_blocks.0.attn1`, to (b*h*w, n, f, f), with h and w of its
                level. Layers without an entry use their own maps.
            backward: for a batch [forward; backward] of two equal halves. The second half, in reversed time, uses the
                temporal tensors of `backward`, and the first half's maps, rotated, in the layers that `backward` selects.
            return_attn_maps: also return the maps; with `backward` those of the forward half.
            run_block: runs resnets, transformers and the layers between levels. For training,
                `rematerialise.run_rematerialised` keeps only their inputs and recomputes their activations.
            deep: deep features of an earlier call to use instead of the layers that compute them: only the first convolution
                and the last layer of the last level run (DeepCache of Ma et al. 2024, branch 0).
            return_deep: also return the deep features, the input of the last layer: (b, f, h, w, c).

        Returns:
            The prediction (b, f, h, w, c_out) in the compute dtype; with `return_attn_maps` also the maps by path, of the
            layers that ran; with `return_deep` also the deep features.

        Raises:
            ValueError: a wrong number of channels, a size that the levels cannot halve, more than one token per clip, an
                unknown path in `attn_maps`, maps of a wrong shape, both `attn_maps` and `backward`, or an odd batch
                with `backward`.
        """
        self._check(sample, image_embeds, attn_maps, backward)
        temb = self.time_embedding(timestep_embedding(c_noise, self.config.block_out_channels[0]).astype(self.dtype))
        # one sinusoid for each of the three ids, side by side
        ids = timestep_embedding(added_time_ids, self.config.addition_time_embed_dim).reshape(sample.shape[0], -1)
        temb = temb + self.add_embedding(ids.astype(self.dtype))
        cond = Conditions(
            temb=jax.nn.silu(temb),
            context=image_embeds.astype(self.dtype),
            attn_maps=attn_maps or {},
            backward=backward,
            return_attn_maps=return_attn_maps,
            run_block=run_block,
        )

        x = skip = self.conv_in(sample.astype(self.dtype))
        deep, maps = (deep, {}) if deep is not None else self._deep(x, cond)
        x, level_maps = self.up_blocks[-1](deep, [skip], cond, slice(-1, None))
        maps |= level_maps
        x = self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
        others = (*([maps] if return_attn_maps else []), *([deep] if return_deep else []))
        return (x, *others) if others else x

    def _deep(self, x: Array, cond: Conditions) -> tuple[Array, Maps]:
        """The input of the last layer of the last level, from the result of the first convolution, and temporal maps."""
        skips, maps = [x], {}
        for down in self.down_blocks:
            x, level_skips, level_maps = down(x, cond)
            skips += level_skips
            maps |= level_maps
        x, level_maps = self.mid_block(x, cond)
        maps |= level_maps
        for up in self.up_blocks:
            layers = len(up.resnets) - (up is self.up_blocks[-1])
            x, level_maps = up(x, [skips.pop() for _ in range(layers)], cond, slice(layers))
            maps |= level_maps
        return x, maps

    def temporal_attention_paths(self) -> list[str]:
        """Paths of the temporal self-attentions, the keys of `attn_maps`, in the order in which they run."""
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        transformers = [t for block in blocks if block.attentions is not None for t in block.attentions]
        return [layer.attn1.path for t in transformers for layer in t.temporal_transformer_blocks]

    def _check(
        self, sample: Array, image_embeds: Array, attn_maps: Mapping[str, Array] | None, backward: Backward | None
    ) -> None:
        b, _, h, w, c = sample.shape
        if c != self.config.in_channels:
            raise ValueError(f"sample has {c} channels, expected {self.config.in_channels}")
        if h % self.config.down_factor or w % self.config.down_factor:
            raise ValueError(
                f"sample has {h}x{w} latents, expected multiples of {self.config.down_factor}: each level halves the size"
            )
        if image_embeds.shape[:2] != (b, 1):
            raise ValueError(f"image_embeds has shape {image_embeds.shape}, expected ({b}, 1, ...): one token per clip")
        if backward is not None and (attn_maps or b % 2):
            raise ValueError(f"backward with a batch of {b}, expected two equal halves [forward; backward] and no attn_maps")
        unknown = set(attn_maps or ()) - set(self.temporal_attention_paths())
        if unknown:
            raise ValueError(f"attn_maps has {sorted(unknown)[0]!r}, expected paths of this UNet's temporal self-attentions")


def _attention(config: UNetConfig, level: int) -> dict[str, int]:
    """Arguments of the transformers of a level."""
    return {
        "heads": config.num_attention_heads[level],
        "layers": config.transformer_layers_per_block[level],
        "context_dim": config.cross_attention_dim[level],
    }


def _down_blocks(config: UNetConfig, temb_dim: int, kw: dict[str, Any]) -> tuple[list[DownBlock], list[int]]:
    """The blocks, and the widths of all skip connections in the order of the computation, the one of `conv_in` first."""
    widths = config.block_out_channels
    blocks, skip_channels = [], [widths[0]]
    for level, width in enumerate(widths):
        layers, downsample = config.layers_per_block[level], level < len(widths) - 1
        attends = config.down_block_types[level].startswith("CrossAttn")
        blocks.append(
            DownBlock(
                widths[max(level - 1, 0)],
                width,
                layers,
                temb_dim,
                _attention(config, level) if attends else None,
                downsample=downsample,
                path=f"down_blocks.{level}",
                **kw,
            )
        )
        skip_channels += [width] * (layers + downsample)
    return blocks, skip_channels


def _up_blocks(config: UNetConfig, temb_dim: int, skip_channels: list[int], kw: dict[str, Any]) -> list[UpBlock]:
    """The blocks, from the lowest resolution up. Each takes the last of the remaining skip connections."""
    widths, remaining = config.block_out_channels, list(skip_channels)
    blocks = []
    for i, level in enumerate(reversed(range(len(widths)))):
        attends = config.up_block_types[i].startswith("CrossAttn")
        blocks.append(
            UpBlock(
                widths[min(level + 1, len(widths) - 1)],
                widths[level],
                [remaining.pop() for _ in range(config.layers_per_block[level] + 1)],
                temb_dim,
                _attention(config, level) if attends else None,
                upsample=level > 0,
                path=f"up_blocks.{i}",
                **kw,
            )
        )
    return blocks
