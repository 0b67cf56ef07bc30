"""Interpolate a chain of keyframes: one clip for each pair of neighbours, joined to one video."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array

from svdjax.errors import InputError
from svdjax.frame_rate.clips import decode_at_rate, raise_rate
from svdjax.frame_rate.sampling import rate_evaluations
from svdjax.frame_rate.windows import check_rate, frames_at_rate
from svdjax.media import keyframe_blend
from svdjax.models.svd import SVD
from svdjax.parallel import divided
from svdjax.parallel.sampling_mesh import clips_together
from svdjax.sampling.checks import check_draws, check_pair, check_progress, decode_chunk_of
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.draws import Draws
from svdjax.sampling.generation import decode, latent_shape, sample_pair
from svdjax.sampling.methods import Method, backward_of, method_of, run_of
from svdjax.sampling.sampler import Preview, Progress
from svdjax.sampling.settings import Settings

# Keyframes whose directions disagree more in any update have too little in common, see docs/claims.md.
MOST_DISAGREEMENT = 1.0


@dataclass(frozen=True)
class Clip:
    """The result for one pair of keyframes, or for a batch of b pairs.

    Attributes:
        latents: the final latents, (b, f, h, w, c), at the raised frame rate if there is one.
        frames: uint8 (b, f, H, W, 3), both keyframes included.
        disagreement: of the directions in each update that has two, (n, b), see `svdjax.sampling.prediction.disagreement`.
    """

    latents: Array
    frames: np.ndarray
    disagreement: np.ndarray | None = None

    def too_different(self) -> np.ndarray:
        """The largest disagreement of each pair of keyframes, (b,), or 0 where it is at most `MOST_DISAGREEMENT`.

        For fine-tuned methods: the directions of the others always disagree more.
        """
        if self.disagreement is None or not len(self.disagreement):
            return np.zeros(len(self.frames))
        largest = self.disagreement.max(0)
        return np.where(largest > MOST_DISAGREEMENT, largest, 0)


def interpolate_pairs(
    model: SVD,
    keyframes: Sequence[np.ndarray],
    settings: Settings,
    *,
    method: str | Method = "dual",
    draws: Draws | None = None,
    decode_chunk: int | None = None,
    progress: Progress | None = None,
    loop: bool = False,
    keep_keyframes: bool = False,
    plan: ClipPlan | None = None,
    rate: int = 1,
    preview: Preview | None = None,
) -> Iterator[Clip]:
    """Generate the clips between neighbouring keyframes, one after the other, or several at a time on a mesh.

    Args:
        keyframes: at least two batches (b, H, W, 3) of one shape.
        plan: how to make each clip within the device's memory; None: in one UNet call per evaluation, networks are not moved.
        preview: called with estimates of the running clip's latents, see `svdjax.sampling.generation.sample_pair`.
        model, settings, method, draws, decode_chunk, progress, loop, keep_keyframes, rate: see `svdjax.interpolate`.

    Yields:
        The clip of each pair of neighbours, as soon as the pairs that are sampled together are decoded. With `loop`, the clip
        from the last keyframe to the first comes last.

    Raises:
        InputError, FloatingPointError: see `svdjax.interpolate`; `InputError` before the first clip is made.
    """
    check_pairs(model, keyframes, settings, method, draws, progress, loop, keep_keyframes, rate)
    pairs = list(itertools.pairwise([*keyframes, keyframes[0]] if loop else keyframes))
    chunk = decode_chunk_of(decode_chunk)
    rate = check_rate(rate, settings.num_frames)
    clips = _interpolate_pairs(model, pairs, settings, method, draws, chunk, progress, plan, rate, preview)
    if not keep_keyframes:
        return clips
    return (
        dataclasses.replace(clip, frames=keyframe_blend.keep_keyframes(clip.frames, *pair))
        for clip, pair in zip(clips, pairs, strict=True)
    )


def check_pairs(
    model: SVD,
    keyframes: Sequence[np.ndarray],
    settings: Settings,
    method: str | Method,
    draws: Draws | None,
    progress: Progress | None,
    loop: bool,
    keep_keyframes: bool,
    rate: int,
) -> None:
    """Raise `InputError` for arguments of `interpolate_pairs` that don't fit."""
    if len(keyframes) < 2:
        raise InputError(f"{len(keyframes)} keyframe{'s' * (len(keyframes) != 1)} given, expected at least two")
    names = [f"keyframe {k + 1}" for k in range(len(keyframes))]
    for (name, image), (next_name, next_image) in itertools.pairwise(zip(names, keyframes, strict=True)):
        check_pair(model, image, next_image, (name, next_name))
    check_chain(keyframes, method, loop, keep_keyframes)
    backward_of(method, model.backward)
    check_progress(progress)
    b, height, width, _ = keyframes[0].shape
    recurrences = run_of(method, settings, model.config.scheduler).recurrences
    rate = check_rate(rate, settings.num_frames)
    raised = frames_at_rate(settings.num_frames, rate) if rate > 1 else None
    check_draws(draws, b, (height, width, 3), latent_shape(model.config, settings, (height, width)), recurrences, raised)


def check_chain(
    keyframes: Sequence[np.ndarray],
    method: str | Method,
    loop: bool,
    keep_keyframes: bool,
    names: tuple[str, str] = ("loop", "keep_keyframes"),
) -> None:
    """Reject a loop that ends with its first keyframe, and kept keyframes with a method that doesn't lead to the last.

    Args:
        keyframes: in time order.
        method, loop, keep_keyframes: see `svdjax.interpolate`.
        names: names of the two options in messages.

    Raises:
        InputError: see above.
    """
    if loop and np.array_equal(keyframes[0], keyframes[-1]):
        raise InputError(f"{names[0]}: the last keyframe equals the first; leave it out: the loop returns to the first")
    method = method_of(method)
    if keep_keyframes and method.directions == 1:
        raise InputError(f"{names[1]}: method {method.name} doesn't lead to the last keyframe, expected another method")


def _interpolate_pairs(
    model: SVD,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    settings: Settings,
    method: str | Method,
    draws: Draws | None,
    decode_chunk: int | None,
    progress: Progress | None,
    plan: ClipPlan | None,
    rate: int,
    preview: Preview | None,
) -> Iterator[Clip]:
    sampled = run_of(method, settings, model.config.scheduler).evaluations
    raised = rate_evaluations(settings.num_frames, rate, model.config.scheduler)
    together = clips_together(divided.mesh_of(model.unet), len(pairs[0][0]))
    draws = draws if draws is None or together == 1 else draws.repeated(together)
    for number in range(0, len(pairs), together):
        group = pairs[number : number + together]
        # all groups have one shape: compiled once
        first, last = (np.concatenate(ends) for ends in zip(*group, *[group[-1]] * (together - len(group)), strict=True))
        # over all pairs, for the remaining time of a progress bar
        overall = None if progress is None else _offset(progress, number, len(group), len(pairs))
        seen: list[np.ndarray] = []
        options = {"method": method, "draws": draws, "plan": plan}
        parts = (None, None) if overall is None else (_within(overall, 0, raised), _within(overall, sampled, 0))
        # the windows of a raised rate have one update per call too: they use the same program
        hooks = {"observe": seen.append, "preview": preview, "one_by_one": rate > 1}
        latents = sample_pair(model, first, last, settings, **options, progress=parts[0], **hooks)
        frames = decode(model, latents, decode_chunk, plan and plan.decode)
        if rate > 1:
            latents = raise_rate(
                model, latents, frames, settings, rate, **options, progress=parts[1], clean=preview is not None
            )
            frames = decode_at_rate(model, latents, rate, decode_chunk, plan)
        for k in range(len(group)):
            part = slice(k * len(first) // together, (k + 1) * len(first) // together) if together > 1 else slice(None)
            yield Clip(latents[part], frames[part], *(apart[:, part] for apart in seen))


def _within(progress: Progress, before: int, after: int) -> Progress:
    """The callback for a part of a run, with the evaluations before and after the part."""
    return lambda done, total: progress(before + done, before + total + after)


def _offset(progress: Progress, number: int, together: int, count: int) -> Progress:
    """The callback for runs `number`, from 0, and following, which run together; it reports progress over all `count` runs."""
    return lambda done, total: progress(number * total + done * together, count * total)


def join(clips: Sequence[np.ndarray], *, loop: bool = False) -> np.ndarray:
    """Join consecutive clips (b, f, H, W, 3): the last frame of a clip is the first frame of the next, and is kept once.

    Args:
        clips: in time order.
        loop: whether the last frame of the last clip is the first frame of the first.
    """
    joined = np.concatenate([clip if number == 0 else clip[:, 1:] for number, clip in enumerate(clips)], axis=1)
    return joined[:, :-1] if loop else joined
