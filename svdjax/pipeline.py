"""From keyframes to frames: conditioning, sampling, decoding, for one pair, a batch or a chain of keyframes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from svdjax.errors import InputError
from svdjax.models.svd import SVD
from svdjax.sampling.draws import Draws
from svdjax.sampling.generation import check_pair, decode, sample_image, sample_pair
from svdjax.sampling.sampler import Progress
from svdjax.sampling.settings import Settings

IMAGE_TO_VIDEO_STEPS = 25  # num_inference_steps of diffusers' StableVideoDiffusionPipeline


@dataclass(frozen=True)
class Clip:
    """The result for one pair of keyframes, or for a batch of b pairs.

    Attributes:
        latents: the sampler's final latents, (b, f, h, w, c).
        frames: uint8 (b, f, H, W, 3), both keyframes included.
    """

    latents: Array
    frames: np.ndarray


def interpolate(
    model: SVD,
    *keyframes: np.ndarray,
    decode_chunk: int | None = None,
    method: str = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video between two or more keyframes, all included.

    Args:
        model: from `svdjax.load`, with the backward weights that the method needs.
        keyframes: n of them in time order, n >= 2, each uint8 (H, W, 3), or each a batch (b, H, W, 3). Sides must be
            multiples of `model.config.size_multiple`; `svdjax.media.fit.fit` brings an image to such a size.
        decode_chunk: number of frames decoded at a time: fewer need less memory, but change the result. None is all frames.
        method: a key of `svdjax.sampling.methods.METHODS`.
        draws: random draws to use instead of the seed's; every pair of keyframes uses the same.
        progress: called at most 20 times per pair, with the UNet evaluations done so far and in total, over all pairs.
        **settings: fields of `Settings`. Default: the model's `num_frames`, then `model.defaults`, then those of `Settings`.
            Every pair has the draws of the same seed, so a batch gives the same frames as its pairs one by one.

    Returns:
        uint8 (m, H, W, 3), or (b, m, H, W, 3) for batches, with m = (n - 1) * (num_frames - 1) + 1: neighbouring clips share
        a keyframe, which is shown once.

    Raises:
        InputError: fewer than two keyframes, an image of another dtype or shape, a setting out of its range, or backward
            weights that are missing or were trained for another method.
        FloatingPointError: latents that are not finite.
    """
    batched = keyframes[0].ndim == 4 if keyframes else False
    images = [image if batched else image[None] for image in keyframes]
    clips = interpolate_pairs(
        model,
        images,
        settings_for(model, **settings),
        method=method,
        draws=draws,
        decode_chunk=decode_chunk,
        progress=progress,
    )
    frames = join([clip.frames for clip in clips])
    return frames if batched else frames[0]


def settings_for(model: SVD, **settings: Any) -> Settings:
    """`Settings` with these fields; for the others, the model's own defaults apply before those of `Settings`."""
    return Settings(**{"num_frames": model.config.unet.num_frames, **model.defaults, **settings})


def interpolate_pairs(
    model: SVD,
    keyframes: Sequence[np.ndarray],
    settings: Settings,
    *,
    method: str = "dual",
    draws: Draws | None = None,
    decode_chunk: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Clip]:
    """Generate the clips between neighbouring keyframes, one after the other.

    Args:
        keyframes: at least two batches (b, H, W, 3) of one shape.
        model, settings, method, draws, decode_chunk, progress: see `interpolate`.

    Yields:
        The clip of each pair of neighbours, as soon as it is decoded.

    Raises:
        InputError, FloatingPointError: see `interpolate`; `InputError` before the first clip is made.
    """
    if len(keyframes) < 2:
        raise InputError(f"{len(keyframes)} keyframe{'s' * (len(keyframes) != 1)} given, expected at least two")
    pairs = list(itertools.pairwise(keyframes))
    for first, last in pairs:
        check_pair(model, first, last)
    return _interpolate_pairs(model, pairs, settings, method, draws, decode_chunk, progress)


def _interpolate_pairs(
    model: SVD,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: Settings,
    method: str,
    draws: Draws | None,
    decode_chunk: int | None,
    progress: Progress | None,
) -> Iterator[Clip]:
    for number, (first, last) in enumerate(pairs):
        # over all pairs, for the remaining time of a progress bar
        overall = None if progress is None else _offset(progress, number, len(pairs))
        latents = sample_pair(model, first, last, settings, method=method, draws=draws, progress=overall)
        yield Clip(latents, decode(model, latents, decode_chunk))


def _offset(progress: Progress, number: int, count: int) -> Progress:
    """The callback for run `number`, from 0, of `count` equal runs; it reports progress over all of them."""
    return lambda done, total: progress(number * total + done, count * total)


def join(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Join consecutive clips (b, f, H, W, 3): the last frame of a clip is the first frame of the next, and is kept once."""
    return np.concatenate([clip if number == 0 else clip[:, 1:] for number, clip in enumerate(clips)], axis=1)


def animate(
    model: SVD,
    image: np.ndarray,
    *,
    decode_chunk: int | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video that starts with an image: SVD's own image-to-video, only the forward direction.

    Args:
        model: from `svdjax.load`; backward weights are not used.
        image: uint8 (H, W, 3), or a batch of them (b, H, W, 3); sizes as for `interpolate`.
        decode_chunk, draws, progress: as for `interpolate`.
        **settings: fields of `Settings`; the default of `num_frames` is the model's, that of `steps` is 25. Guidance
            increases from its smallest scale at the first frame to its largest at the last, for any `fusion`.

    Returns:
        uint8 (f, H, W, 3), or (b, f, H, W, 3) for a batch.

    Raises:
        InputError: an image of another dtype or shape, a setting out of its range.
        FloatingPointError: latents that are not finite.
    """
    # the model's own defaults are for two directions
    given = Settings(**{"num_frames": model.config.unet.num_frames, "steps": IMAGE_TO_VIDEO_STEPS, **settings})
    batched = image.ndim == 4
    latents = sample_image(model, image if batched else image[None], given, draws=draws, progress=progress)
    frames = decode(model, latents, decode_chunk)
    return frames if batched else frames[0]
