"""The VAE of Stable Video Diffusion: encodes single images, decodes the latents of whole clips."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config import VAEConfig
from svdjax.memory.blocking import BLOCK_BYTES, map_blocks
from svdjax.memory.precision import stats_dtype
from svdjax.models.convolution import Conv
from svdjax.models.initialize import Keys
from svdjax.models.vae_decoder import TemporalDecoder
from svdjax.models.vae_encoder import Encoder


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
        """Decode all frames of each clip together, exactly, in bounded memory (see `vae_decoder`).

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
