"""From batches of keyframes to latents and frames: encode, sample, decode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import SVDConfig
from svdjax.models.backward import Backward
from svdjax.models.svd import SVD
from svdjax.models.vae import VAE
from svdjax.sampling.checks import check_draws, check_image, check_pair, check_progress, decode_chunk_of
from svdjax.sampling.conditioning import added_time_ids, encode_keyframes, to_levels
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.methods import backward_of
from svdjax.sampling.sampler import Conditioning, Progress, sample
from svdjax.sampling.settings import Settings

SEGMENTS = 20  # progress is reported at most this often during a run


def latent_shape(config: SVDConfig, settings: Settings, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Shape (f, h, w, c) of the latents of a clip of `image_size` = (height, width) pixels."""
    height, width = image_size
    factor = config.vae.down_factor
    return settings.num_frames, height // factor, width // factor, config.vae.latent_channels


def sample_pair(
    model: SVD,
    first: np.ndarray,
    last: np.ndarray,
    settings: Settings,
    *,
    method: str = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
) -> Array:
    """Sample latents (b, f, h, w, c) between batches of keyframes (b, H, W, 3). Other arguments: see `svdjax.interpolate`."""
    check_pair(model, first, last)
    backward = backward_of(method, model.backward)
    if backward is None:
        return sample_image(model, first, settings, draws=draws, progress=progress)
    return _sample(model, np.stack([first, last]), settings, draws, backward, progress)


def sample_image(
    model: SVD, image: np.ndarray, settings: Settings, *, draws: Draws | None = None, progress: Progress | None = None
) -> Array:
    """Sample latents (b, f, h, w, c) of clips that start with images (b, H, W, 3). Other arguments: see `svdjax.animate`."""
    check_image(model, "image", image)
    return _sample(model, image[None], settings, draws, None, progress)


def _sample(
    model: SVD,
    keyframes: np.ndarray,
    settings: Settings,
    draws: Draws | None,
    backward: Backward | None,
    progress: Progress | None,
) -> Array:
    """Sample latents (b, f, h, w, c) from keyframes (d, b, H, W, 3): the first and, if d is 2, the last."""
    _, b, height, width, _ = keyframes.shape
    shape = latent_shape(model.config, settings, (height, width))
    check_progress(progress)
    check_draws(draws, b, (height, width, 3), shape, settings.schedule(model.config.scheduler).recurrences)
    if draws is None:
        draws = draw([settings.seed] * b, (height, width, 3), shape)
    strength = settings.noise_aug_strength
    # both keyframes of a pair get the same augmentation noise
    embeds, image_latents = _encode(model.image_encoder, model.vae, jnp.asarray(keyframes), draws.augmentation, strength)
    ids = added_time_ids(settings.fps, settings.motion_bucket_id, strength)
    conditioning = Conditioning(embeds, image_latents, jnp.broadcast_to(ids, (b, 3)))
    return sample(
        model.unet,
        conditioning,
        settings,
        draws,
        scheduler=model.config.scheduler,
        backward=backward,
        progress=progress,
        segments=1 if progress is None else SEGMENTS,
    )


def decode(model: SVD, latents: Array, chunk: int | None = None) -> np.ndarray:
    """Decode the sampler's latents (b, f, h, w, c) to frames, uint8 (b, f, H, W, 3).

    Args:
        chunk: number of frames decoded at a time, or None for all. A chunk shorter than the clip changes the frames.
    """
    frames = latents.shape[1]
    chunk = decode_chunk_of(chunk, "chunk")
    chunk = None if chunk is None or chunk >= frames else chunk
    return np.asarray(_decode(model.vae, latents, model.config.vae.scaling_factor, chunk))


_encode = jax.jit(encode_keyframes)


def _decode_uint8(vae: VAE, latents: Array, scaling_factor: float, chunk: int | None) -> Array:
    latents = latents / scaling_factor
    frames = vae.decode(latents) if chunk is None else vae.decode_chunked(latents, chunk)
    return to_levels(frames)


_decode = jax.jit(_decode_uint8, static_argnames=("chunk",))
