"""The whole path: keyframes -> conditioning -> latents -> frames."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.models.backward import Backward
from svdjax.models.vae import VAE
from svdjax.sampling.conditioning import added_time_ids, encode_keyframes, to_levels
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.methods import backward_of
from svdjax.sampling.sampler import Conditioning, Progress, sample
from svdjax.sampling.settings import Settings

if TYPE_CHECKING:
    from svdjax.models.svd import SVD

SEGMENTS = 20  # how often, at most, progress is told during a run
IMAGE_TO_VIDEO_STEPS = 25  # num_inference_steps of diffusers' StableVideoDiffusionPipeline


def latent_shape(config: SVDConfig, settings: Settings, image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(f, h, w, c) of the latents of a clip of `image_size` = (height, width) pixels."""
    height, width = image_size
    factor = config.vae.down_factor
    return settings.num_frames, height // factor, width // factor, config.vae.latent_channels


def interpolate(
    model: SVD,
    first: np.ndarray,
    last: np.ndarray,
    *,
    decode_chunk: int | None = None,
    method: str = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video between two keyframes, both included.

    Args:
        model: from `svdjax.load`, with the backward weights that the method needs.
        first: the first keyframe, uint8 (H, W, 3), or a batch of them (b, H, W, 3). Sides must be multiples of
            `model.config.size_multiple`; `svdjax.media.fit.fit` brings an image to such a size.
        last: the last keyframe, of the same shape.
        decode_chunk: decode so many frames at a time, which changes the picture; all together, exactly, if left out.
        method: a key of `svdjax.sampling.methods.METHODS`.
        draws: random draws to use instead of the seed's.
        progress: called with the UNet evaluations done and in all, about 20 times a run.
        **settings: fields of `Settings`. `num_frames` is the model's unless given. Every pair of a batch has the draws of
            the one seed, so that a batch equals its pairs one by one.

    Returns:
        uint8 (f, H, W, 3), or (b, f, H, W, 3) for a batch.

    Raises:
        InputError: an image of another dtype or shape, a setting out of its range, backward weights that are missing or
            of another method.
        FloatingPointError: latents that are not finite.
    """
    given = Settings(**({"num_frames": model.config.unet.num_frames} | settings))
    batched = first.ndim == 4
    pair = [image if batched else image[None] for image in (first, last)]
    latents = sample_pair(model, *pair, given, method=method, draws=draws, progress=progress)
    frames = decode(model, latents, decode_chunk)
    return frames if batched else frames[0]


def animate(
    model: SVD,
    image: np.ndarray,
    *,
    decode_chunk: int | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video that begins with an image: SVD's own image to video, the forward direction alone.

    Args:
        model: from `svdjax.load`; backward weights are not needed, and not used.
        image: uint8 (H, W, 3), or a batch of them (b, H, W, 3); sizes as for `interpolate`.
        decode_chunk, draws, progress: as for `interpolate`.
        **settings: fields of `Settings`; `num_frames` is the model's and `steps` 25 unless given. Guidance goes from its
            smallest scale at the first frame to its largest at the last, whatever `fusion` is.

    Returns:
        uint8 (f, H, W, 3), or (b, f, H, W, 3) for a batch.

    Raises:
        InputError: an image of another dtype or shape, a setting out of its range.
        FloatingPointError: latents that are not finite.
    """
    defaults = {"num_frames": model.config.unet.num_frames, "steps": IMAGE_TO_VIDEO_STEPS}
    batched = image.ndim == 4
    latents = sample_image(
        model, image if batched else image[None], Settings(**(defaults | settings)), draws=draws, progress=progress
    )
    frames = decode(model, latents, decode_chunk)
    return frames if batched else frames[0]


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
    """Latents (b, f, h, w, c) between batches of keyframes (b, H, W, 3); see `interpolate` for the rest."""
    check_pair(model, first, last)
    backward = backward_of(method, model.backward)
    if backward is None:
        return sample_image(model, first, settings, draws=draws, progress=progress)
    return _sample(model, np.stack([first, last]), settings, draws, backward, progress)


def sample_image(
    model: SVD, image: np.ndarray, settings: Settings, *, draws: Draws | None = None, progress: Progress | None = None
) -> Array:
    """Latents (b, f, h, w, c) of the clips that begin with the images (b, H, W, 3); see `animate` for the rest."""
    check_image(model, "image", image)
    ramped = dataclasses.replace(settings, fusion="linear")  # which has guidance go from MIN to MAX
    return _sample(model, image[None], ramped, draws, None, progress)


def _sample(
    model: SVD,
    keyframes: np.ndarray,
    settings: Settings,
    draws: Draws | None,
    backward: Backward | None,
    progress: Progress | None,
) -> Array:
    """Latents (b, f, h, w, c) from keyframes (d, b, H, W, 3) of d directions."""
    _, b, height, width, _ = keyframes.shape
    if draws is None:
        draws = draw([settings.seed] * b, (height, width, 3), latent_shape(model.config, settings, (height, width)))
    strength = settings.noise_aug_strength
    # one draw of augmentation serves both keyframes of a pair
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
    """The sampler's latents (b, f, h, w, c) -> frames uint8 (b, f, H, W, 3).

    Args:
        chunk: frames decoded at a time; None decodes all together. A chunk shorter than the clip changes the picture.
    """
    frames = latents.shape[1]
    chunk = None if chunk is None or chunk >= frames else chunk
    return np.asarray(_decode(model.vae, latents, model.config.vae.scaling_factor, chunk))


_encode = jax.jit(encode_keyframes)


def _decode_uint8(vae: VAE, latents: Array, scaling_factor: float, chunk: int | None) -> Array:
    latents = latents / scaling_factor
    frames = vae.decode(latents) if chunk is None else vae.decode_chunked(latents, chunk)
    return to_levels(frames)


_decode = jax.jit(_decode_uint8, static_argnames=("chunk",))


def check_pair(model: SVD, first: np.ndarray, last: np.ndarray) -> None:
    """Raise `InputError` unless the keyframes are uint8 (b, H, W, 3) alike, of a size that the model takes."""
    check_image(model, "first keyframe", first)
    check_image(model, "last keyframe", last)
    if first.shape != last.shape:
        raise InputError(f"keyframes have shapes {first.shape[1:]} and {last.shape[1:]}, expected the same")


def check_image(model: SVD, name: str, image: np.ndarray) -> None:
    """Raise `InputError` unless an image is uint8 (b, H, W, 3) of a size that the model takes; `name` is its name."""
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        raise InputError(f"{name} is {image.dtype} {image.shape[1:]}, expected uint8 (H, W, 3)")
    height, width = image.shape[1:3]
    multiple = model.config.size_multiple
    if height % multiple or width % multiple or 0 in (height, width):
        raise InputError(f"{name} is {width}x{height}, expected multiples of {multiple}")
