"""The VAE of Stable Video Diffusion: encodes single images, decodes the latents of whole clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config import VAEConfig
from svdjax.memory.blocking import BLOCK_BYTES, map_blocks
from svdjax.memory.precision import stats_dtype
from svdjax.models.convolution import Conv, TemporalConv
from svdjax.models.initialize import Keys
from svdjax.models.layers import GroupNorm
from svdjax.models.resnet import SpatioTemporalResBlock, Upsample
from svdjax.models.vae_encoder import EPS, AttentionBlock, Encoder
from svdjax.models.vae_stages import SILU, Layer, Stage, TemporalHalf, over_frames, temporal_over_rows

TEMPORAL_EPS = 1e-5


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
    """Decodes the latents of clips to frames; parameter paths and constants as in diffusers' `TemporalDecoder`."""

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

    def stages(self) -> Iterator[Stage]:
        """All stages in order. The last gives the picture before `time_conv_out`."""
        spatial: list[Layer] = [self.conv_in]
        for layer in self.layers():
            if isinstance(layer, SpatioTemporalResBlock):
                yield Stage((*spatial, layer.spatial_res_block), TemporalHalf(layer.temporal_res_block, layer.time_mixer))
                spatial = []
            else:
                spatial.append(layer)
        yield Stage((*spatial, self.conv_norm_out, SILU, self.conv_out), None)

    def __call__(self, latents: Array, block_bytes: int) -> Array:
        """(b, f, h, w, c) -> (b, f, H, W, 3) in at least float32, with intermediates of about `block_bytes` bytes."""
        x = latents
        for stage in self.stages():
            x = over_frames(stage.layers, x, block_bytes)
            if stage.temporal is not None:
                x = temporal_over_rows(stage.temporal, x, block_bytes)
        return self.time_conv_out(x)


class VAE(nnx.Module):
    """diffusers' `AutoencoderKLTemporalDecoder`, channels last.

    Args of the constructor:
        config: widths, from the highest resolution down, and layers per level.
        dtype: compute dtype. `config.force_upcast` means that the weights were trained for float32 only; the caller
            decides whether to follow it. Norm statistics, softmax and results are never below float32.
        param_dtype: dtype of the parameters.
        rngs: keys for a random initialisation.
    """

    def __init__(self, config: VAEConfig, *, dtype: Any, param_dtype: Any, rngs: Keys):
        kw = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.config = config
        self.encoder = Encoder(config, **kw)
        self.quant_conv = Conv(2 * config.latent_channels, 2 * config.latent_channels, 1, **kw)
        self.decoder = TemporalDecoder(config, **kw)

    def encode(self, images: Array, block_bytes: int = BLOCK_BYTES) -> tuple[Array, Array]:
        """Mean and log variance of the latents of each image, without the scaling factor.

        Args:
            images: (b, H, W, 3) in [-1, 1]; H and W multiples of `config.down_factor`.
            block_bytes: images are encoded in groups that keep the widest activation within this many bytes.

        Returns:
            The mean, which is also the mode, and the log variance, clamped to [-30, 20] as in diffusers'
            `DiagonalGaussianDistribution`: (b, h, w, 4) each.
        """
        dtype = stats_dtype(images.dtype)
        bytes_per_image = images[0].size // 3 * self.config.block_out_channels[0] * dtype.itemsize
        moments = map_blocks(lambda x: self.quant_conv(self.encoder(x)), images, bytes_per_image, block_bytes)
        mean, logvar = jnp.split(moments.astype(dtype), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Array, block_bytes: int = BLOCK_BYTES) -> Array:
        """Decode all frames of each clip together, exactly, in bounded memory (see `vae_stages`).

        Args:
            latents: (b, f, h, w, 4), already divided by the scaling factor.
            block_bytes: approximate size of the largest intermediate besides the frame buffer. It affects only rounding.

        Returns:
            Frames (b, f, H, W, 3), nominally in [-1, 1], not clipped.
        """
        dtype = stats_dtype(latents.dtype)
        pixels = latents[0, ..., 0].size * self.config.down_factor**2
        bytes_per_clip = pixels * self.config.block_out_channels[0] * dtype.itemsize
        return map_blocks(lambda z: self.decoder(z, block_bytes), latents, bytes_per_clip, block_bytes)

    def decode_chunked(self, latents: Array, chunk: int, block_bytes: int = BLOCK_BYTES) -> Array:
        """Decode each group of `chunk` consecutive frames as a separate clip; the last group may be shorter.

        This is diffusers' `decode_latents` with `decode_chunk_size`. The result differs from `decode`, because norm
        statistics and temporal convolutions end at the borders of a group. Prefer `decode`: its memory is bounded too.

        Args:
            latents, block_bytes: see `decode`.
            chunk: frames per group.

        Returns:
            See `decode`.
        """
        b, f, *latent = latents.shape
        whole = f - f % chunk

        def groups(latents: Array, size: int) -> Array:
            frames = self.decode(latents.reshape(-1, size, *latent), block_bytes)
            return frames.reshape(b, -1, *frames.shape[2:])

        parts = [groups(latents[:, :whole], chunk)] if whole else []
        parts += [groups(latents[:, whole:], f - whole)] if whole < f else []
        return jnp.concatenate(parts, axis=1)


def encoding_part(vae: VAE) -> VAE:
    """A VAE, arrays or shapes, without its decoder."""
    part = nnx.clone(vae)
    del part.decoder
    return part
