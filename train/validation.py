"""Something to look at while training: the clip between the first and last frame of a held-out clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from svdjax import pipeline, video
from svdjax.errors import InputError
from svdjax.model import SVD
from svdjax.settings import Settings
from train import hosts
from train.sources import DataSettings, Source, read_clip
from train.state import State


def make(
    folder: Path, source: Source, data: DataSettings, model: SVD, settings: Settings, backward: Callable[[State], dict]
) -> Callable[[State], None]:
    """A function of a state that writes `folder/step-000100.webp`: the truth above what is made between its ends.

    Args:
        folder: made if it doesn't exist.
        source: a held-out one; its first clip is used.
        data: what a clip is.
        model: the frozen networks.
        settings: of the sampler.
        backward: the backward direction's tensors from a state, in the dtype of the UNet.

    Raises:
        InputError: the clip can't be read.
    """
    truth = read_clip(source, source.start(0), data.num_frames, data.stride, data.size, data.fit)

    def validate(state: State) -> None:
        with_backward = dataclasses.replace(model, backward=backward(state))
        try:
            latents = pipeline.sample_pair(with_backward, truth[:1], truth[-1:], settings)
            made = pipeline.decode(with_backward, latents)[0]
        except FloatingPointError as e:
            raise InputError(f"validation at step {int(state.step)}: {e}; the last checkpoint is whole") from None
        if not hosts.is_main():
            return
        folder.mkdir(exist_ok=True)
        gap = np.full_like(truth[:, : max(truth.shape[1] // 64, 2)], 255)
        both = np.concatenate([truth, gap, made], axis=1)
        plan = video.plan_output(
            str(folder / f"step-{int(state.step):06d}.webp"), True, (both.shape[2], both.shape[1]), settings.fps
        )
        video.write_video(plan, both, settings.fps, {"software": "svdjax", "step": str(int(state.step)), "above": source.name})

    return validate
