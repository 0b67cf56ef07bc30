"""Raise the frame rate of sampled clips: condition every window on its frames, sample, decode."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax import Array

from svdjax.frame_rate import sampling
from svdjax.frame_rate.windows import windows_of
from svdjax.models.svd import ENCODER, SVD, on_device, part_on_device
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.generation import condition_on, decode
from svdjax.sampling.methods import Method, backward_of, needs_keyframe_latents, run_of
from svdjax.sampling.runs import window_passes
from svdjax.sampling.sampler import Progress
from svdjax.sampling.settings import Settings


def raise_rate(
    model: SVD,
    latents: Array,
    frames: np.ndarray,
    settings: Settings,
    rate: int,
    *,
    method: str | Method = "dual",
    draws: Draws | None = None,
    progress: Progress | None = None,
    plan: ClipPlan | None = None,
    clean: bool = False,
) -> Array:
    """Latents of a clip at a higher frame rate, (b, rate * (f - 1) + 1, h, w, c); the original frames stay as they are.

    The model is conditioned on `settings.motion_bucket_id` / `rate`, because the motion per frame is smaller, as in
    DiffuseSlide.

    Args:
        model: with the backward weights that the method needs.
        latents: of the clip, (b, f, h, w, c).
        frames: the same, decoded, uint8 (b, f, H, W, 3): the conditioning of the windows.
        settings: of the clip.
        rate: 2 or 4.
        method: directions and weights of the clip; its updates are not used, only Euler steps.
        draws: its `augmentation` and `rate` are used instead of the seed's.
        progress: called with the UNet evaluations done so far and in total.
        plan: see `generation.sample_pair`.
        clean: see `sampling.refine`.
    """
    b, _, *image_shape = frames.shape
    windows = windows_of(latents.shape[1], rate)
    if draws is None:
        draws = draw([settings.seed] * b, image_shape, latents.shape[1:])
    backward = backward_of(method, model.backward)
    slower = dataclasses.replace(settings, motion_bucket_id=settings.motion_bucket_id / rate)
    encoders = model
    if plan is not None:  # once for all windows, if they are in host memory
        encoders = dataclasses.replace(
            model, image_encoder=on_device(model.image_encoder), vae=part_on_device(model.vae, ENCODER)
        )
    directions = 1 if backward is None else 2
    conditionings = [
        condition_on(encoders, np.stack([frames[:, k] for k in ends[:directions]]), draws, slower, plan, False)
        for ends in windows.ends
    ]
    del encoders  # their memory is free for the UNet
    if needs_keyframe_latents(method, settings):  # an argument of the clip's program; Euler steps don't use the values
        conditionings = [dataclasses.replace(each, keyframe_latents=each.image_latents) for each in conditionings]
    unet = model.unet
    if plan is not None or not isinstance(jax.tree.leaves(unet)[0], jax.Array):
        unet, backward = on_device((unet, backward))
    run = run_of(method, settings, model.config.scheduler)
    total = sampling.rate_evaluations(settings.num_frames, rate, model.config.scheduler)
    return sampling.refine(
        unet,
        backward,
        latents,
        draws,
        conditionings,
        windows,
        settings,
        scheduler=model.config.scheduler,
        run=run,
        passes="together" if plan is None else window_passes(run, plan.passes),
        clean=clean,
        progress=lambda done: progress and progress(done, total),
    )


def decode_at_rate(model: SVD, latents: Array, rate: int, chunk: int | None = None, plan: ClipPlan | None = None) -> np.ndarray:
    """Decode latents (b, rate * (f - 1) + 1, h, w, c) in `rate` parts of f frames, so that a part needs a clip's memory.

    Neighbouring parts share a frame, which is shown as the earlier part decodes it. For the arguments see `generation.decode`.
    """
    gaps = (latents.shape[1] - 1) // rate
    groups = (latents[:, start : start + gaps + 1] for start in range(0, rate * gaps, gaps))
    parts = [decode(model, group, chunk, plan and plan.decode) for group in groups]
    return np.concatenate([parts[0], *(part[:, 1:] for part in parts[1:])], 1)
