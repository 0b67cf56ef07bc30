"""Something to look at while training: a held-out clip, above what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from svdjax.data.readers import read_clip
from svdjax.data.sources import DataSettings, Source
from svdjax.errors import InputError
from svdjax.media import video
from svdjax.parallel import cluster
from train.steps.state import State


def make(
    folder: Path, source: Source, data: DataSettings, fps: float, produce: Callable[[State, np.ndarray], np.ndarray]
) -> Callable[[State], None]:
    """A function of a state that writes `folder/step-000100.webp`: the truth above what is made.

    Args:
        folder: made if it doesn't exist.
        source: a held-out one; its first clip is used.
        data: what a clip is.
        fps: of the picture.
        produce: what is made, from the state and the truth: both uint8 (f, H, W, 3).

    Raises:
        InputError: the clip can't be read, or what is made is not finite.
    """
    truth = read_clip(source, source.start(0), data.num_frames, data.stride, data.size, data.fit)

    def validate(state: State) -> None:
        try:
            made = produce(state, truth)
        except FloatingPointError as e:
            raise InputError(f"validation at step {int(state.step)}: {e}; the last checkpoint is whole") from None
        if not cluster.is_main():
            return
        folder.mkdir(exist_ok=True)
        gap = np.full_like(truth[:, : max(truth.shape[1] // 64, 2)], 255)
        both = np.concatenate([truth, gap, made], axis=1)
        path = folder / f"step-{int(state.step):06d}.webp"
        plan = video.plan_output(str(path), True, (both.shape[2], both.shape[1]), fps)
        video.write_video(plan, both, fps, {"software": "svdjax", "step": str(int(state.step)), "above": source.name})

    return validate
