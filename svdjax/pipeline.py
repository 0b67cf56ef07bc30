"""From keyframes to frames: conditioning, sampling, decoding, for one pair, a batch or a chain of keyframes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from svdjax.errors import InputError
from svdjax.media import keyframe_blend
from svdjax.media.keyframes import pixels_of
from svdjax.models.svd import SVD
from svdjax.sampling.checks import check_draws, check_image, check_model, check_pair, check_progress, decode_chunk_of
from svdjax.sampling.draws import Draws
from svdjax.sampling.generation import decode, latent_shape, sample_image, sample_pair
from svdjax.sampling.methods import backward_of
from svdjax.sampling.sampler import Progress
from svdjax.sampling.settings import Settings

if TYPE_CHECKING:
    from svdjax.media.keyframes import Keyframe

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
    *keyframes: Keyframe,
    decode_chunk: int | None = None,
    method: str = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
    loop: bool = False,
    keep_keyframes: bool = False,
    **settings: Any,
) -> np.ndarray:
    """The video between two or more keyframes, all included.

    Args:
        model: from `svdjax.load`, with the backward weights that the method needs.
        keyframes: n of them in time order, n >= 2, each an array uint8 (H, W, 3), a Pillow image or the path of an image file,
            or each a batch (b, H, W, 3). Sides must be multiples of `model.config.size_multiple`; `svdjax.media.fit.fit` brings
            an image to such a size.
        decode_chunk: number of frames decoded at a time: fewer need less memory, but change the result. None is all frames.
        method: a key of `svdjax.sampling.methods.METHODS`.
        draws: random draws to use instead of the seed's; every pair of keyframes uses the same.
        progress: called at most 20 times per pair, with the UNet evaluations done so far and in total, over all pairs.
        loop: add the clip from the last keyframe to the first, without its last frame: the video can be repeated.
        keep_keyframes: show the keyframes themselves instead of their decoded latents, see `svdjax.media.keyframe_blend`.
        **settings: fields of `Settings`. Default: the model's `num_frames`, then `model.defaults`, then those of `Settings`.
            Every pair has the draws of the same seed, so a batch gives the same frames as its pairs one by one.

    Returns:
        uint8 (m, H, W, 3), or (b, m, H, W, 3) for batches, with m = (n - 1) * (num_frames - 1) + 1: neighbouring clips share
        a keyframe, which is shown once. With `loop`, m = n * (num_frames - 1).

    Raises:
        InputError: fewer than two keyframes, an image of another dtype or shape, a setting out of its range, backward weights
            that are missing or were trained for another method, or a loop whose last keyframe is its first.
        FloatingPointError: latents that are not finite.
    """
    check_model(model)
    images, batched = _batches([f"keyframe {k + 1}" for k in range(len(keyframes))], keyframes)
    clips = interpolate_pairs(
        model,
        images,
        settings_for(model, **settings),
        method=method,
        draws=draws,
        decode_chunk=decode_chunk,
        progress=progress,
        loop=loop,
        keep_keyframes=keep_keyframes,
    )
    frames = join([clip.frames for clip in clips], loop=loop)
    return frames if batched else frames[0]


def _batches(names: Sequence[str], keyframes: Sequence[Keyframe]) -> tuple[list[np.ndarray], bool]:
    """Keyframes as batches uint8 (b, H, W, 3), and whether they were given as batches."""
    images = [pixels_of(name, keyframe) for name, keyframe in zip(names, keyframes, strict=True)]
    batched = bool(images) and images[0].ndim == 4
    for name, image in zip(names, images, strict=True):
        if (image.ndim == 4) is not batched:
            raise InputError(f"{name} has shape {image.shape}, {names[0]} {images[0].shape}, expected the same")
    return images if batched else [image[None] for image in images], batched


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
    loop: bool = False,
    keep_keyframes: bool = False,
) -> Iterator[Clip]:
    """Generate the clips between neighbouring keyframes, one after the other.

    Args:
        keyframes: at least two batches (b, H, W, 3) of one shape.
        model, settings, method, draws, decode_chunk, progress, loop, keep_keyframes: see `interpolate`.

    Yields:
        The clip of each pair of neighbours, as soon as it is decoded; with `loop`, last that from the last keyframe to the
        first.

    Raises:
        InputError, FloatingPointError: see `interpolate`; `InputError` before the first clip is made.
    """
    if len(keyframes) < 2:
        raise InputError(f"{len(keyframes)} keyframe{'s' * (len(keyframes) != 1)} given, expected at least two")
    names = [f"keyframe {k + 1}" for k in range(len(keyframes))]
    for (name, image), (next_name, next_image) in itertools.pairwise(zip(names, keyframes, strict=True)):
        check_pair(model, image, next_image, (name, next_name))
    check_chain(keyframes, method, loop, keep_keyframes)
    backward_of(method, model.backward)
    check_progress(progress)
    b, height, width, _ = keyframes[0].shape
    recurrences = settings.schedule(model.config.scheduler).recurrences
    check_draws(draws, b, (height, width, 3), latent_shape(model.config, settings, (height, width)), recurrences)
    pairs = list(itertools.pairwise([*keyframes, keyframes[0]] if loop else keyframes))
    chunk = decode_chunk_of(decode_chunk)
    clips = _interpolate_pairs(model, pairs, settings, method, draws, chunk, progress)
    if not keep_keyframes:
        return clips
    return (
        Clip(clip.latents, keyframe_blend.keep_keyframes(clip.frames, *pair)) for clip, pair in zip(clips, pairs, strict=True)
    )


def check_chain(
    keyframes: Sequence[np.ndarray],
    method: str,
    loop: bool,
    keep_keyframes: bool,
    names: tuple[str, str] = ("loop", "keep_keyframes"),
) -> None:
    """Refuse a loop that ends with its first keyframe, and kept keyframes with a method that doesn't lead to the last.

    Args:
        keyframes: in time order.
        method, loop, keep_keyframes: see `interpolate`.
        names: names of the two options in messages.

    Raises:
        InputError: see above.
    """
    if loop and np.array_equal(keyframes[0], keyframes[-1]):
        raise InputError(f"{names[0]}: the last keyframe equals the first; leave it out: the loop returns to the first")
    if keep_keyframes and method == "forward":
        raise InputError(f"{names[1]}: method forward doesn't lead to the last keyframe, expected another method")


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


def join(clips: Sequence[np.ndarray], *, loop: bool = False) -> np.ndarray:
    """Join consecutive clips (b, f, H, W, 3): the last frame of a clip is the first frame of the next, and is kept once.

    Args:
        clips: in time order.
        loop: whether the last frame of the last clip is the first frame of the first.
    """
    joined = np.concatenate([clip if number == 0 else clip[:, 1:] for number, clip in enumerate(clips)], axis=1)
    return joined[:, :-1] if loop else joined


def animate(
    model: SVD,
    image: Keyframe,
    *,
    decode_chunk: int | None = None,
    draws: Draws | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> np.ndarray:
    """The video that starts with an image: SVD's own image-to-video, only the forward direction.

    Args:
        model: from `svdjax.load`; backward weights are not used.
        image: an array uint8 (H, W, 3), a Pillow image or the path of an image file, or a batch (b, H, W, 3); sizes as for
            `interpolate`.
        decode_chunk, draws, progress: as for `interpolate`.
        **settings: fields of `Settings`; the default of `num_frames` is the model's, that of `steps` is 25. Guidance
            increases from its smallest scale at the first frame to its largest at the last, for any `fusion`.

    Returns:
        uint8 (f, H, W, 3), or (b, f, H, W, 3) for a batch.

    Raises:
        InputError: an image of another dtype or shape, a setting out of its range.
        FloatingPointError: latents that are not finite.
    """
    check_model(model)
    # the model's own defaults are for two directions
    given = Settings(**{"num_frames": model.config.unet.num_frames, "steps": IMAGE_TO_VIDEO_STEPS, **settings})
    (images,), batched = _batches(["image"], [image])
    check_image(model, "image", images)
    chunk = decode_chunk_of(decode_chunk)
    frames = decode(model, sample_image(model, images, given, draws=draws, progress=progress), chunk)
    return frames if batched else frames[0]
