"""Validation clips during training: a held-out clip above the generated one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from svdjax.data.readers import read_clip
from svdjax.data.sources import DataSettings, Source
from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.media import output_plan, video
from svdjax.parallel import cluster
from train.run.side_files import SideFiles
from train.steps.state import State


def clip_writer(
    folder: Path, source: Source, data: DataSettings, fps: int, generate: Callable[[State, np.ndarray], np.ndarray]
) -> Callable[[State], None]:
    """A function that writes a validation clip of a state, such as `folder/step-000100.webp`, or warns if it can't.

    Args:
        folder: created if it doesn't exist.
        source: a held-out source; its first clip is used.
        data: number, size, fit and stride of the frames.
        fps: frames per second of the written clip.
        generate: maps the state and the held-out clip to a generated clip; both clips uint8 (f, H, W, 3).

    Raises:
        InputError: the held-out clip can't be read.
    """
    truth = read_clip(source, source.start(0), data.num_frames, data.stride, data.size, data.fit)
    side_files = SideFiles()
    # An error in one of several processes must end the run, because the others would wait for this one.
    expected = Exception if jax.process_count() == 1 else FloatingPointError

    def validate(state: State) -> None:
        step = int(state.step)
        path = folder / f"step-{step:06d}.webp"
        try:
            with out_of_memory_in_one_line(f"{path} was not written"):
                generated = generate(state, truth)
        except expected as e:
            side_files.warn(path, e)
            return
        if not cluster.is_main():
            return
        with side_files.or_warn(path):
            folder.mkdir(exist_ok=True)
            gap = np.full_like(truth[:, : max(truth.shape[1] // 64, 2)], 255)
            both = np.concatenate([truth, gap, generated], axis=1)
            plan = output_plan.plan_output(str(path), True, (both.shape[2], both.shape[1]), fps)
            video.write_video(plan, both, fps, {"software": "svdjax", "step": str(step), "above": source.name})

    return validate
