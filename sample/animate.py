"""`python -m sample.animate`: a clip of each image. SVD's own image-to-video, the paper's source of training data."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import jax
import numpy as np

from sample import console, output_files, planned_model
from sample.animation_options import AnimationRequest, Clip, parse
from sample.console import duration
from svdjax.errors import one_line
from svdjax.kernels.choice import using
from svdjax.media import video
from svdjax.models.svd import SVD
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling import generation
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.methods import run_of
from svdjax.sampling.sampler import Progress


def run(request: AnimationRequest) -> None:
    """Load the model, make the clips one after the other; each is written when it is complete.

    A clip that fails doesn't cost the others, unless the device runs out of memory: they are as large.

    Raises:
        InputError: clips that failed, after the others were made.
    """
    clips = request.clips
    if not clips:
        print("nothing to do: every clip exists")
        return
    compilation_cache.enable()
    evaluations = run_of("forward", clips[0].settings, request.model.config.scheduler).evaluations
    frames = clips[0].settings.num_frames
    print(f"{_count(len(clips))} of {frames} frames, {evaluations} UNet evaluations each, {request.dtype}, {jax.devices()[0]}")
    model, plans = planned_model.load(
        request.model,
        request.dtype,
        request.memory,
        clips[0].settings,
        [clip.size for clip in clips],
        method="forward",
        decode_chunk=request.decode_chunk,
    )
    outputs = output_files.Outputs()
    seconds: list[float] = []
    for number, clip in enumerate(clips, 1):
        started = time.monotonic()
        path = clip.output.path
        label = f"{one_line(path.name)} ({number} of {len(clips)})"
        with console.out_of_memory(f"{path} was not written"), outputs.attempt():
            plan = plans[clip.size]
            movie = make_clip(request, model, clip, console.progress_bar(label, evaluations), plan)
            path.parent.mkdir(exist_ok=True)
            metadata = {**clip.metadata, **({} if plan is None else plan.as_text())}
            video.write_video(clip.output, movie, request.rate, metadata)
            seconds.append(time.monotonic() - started)
            print(f"wrote {path} in {duration(seconds[-1])}{remaining(seconds, len(clips) - number)}", flush=True)
    outputs.finish()


def make_clip(
    request: AnimationRequest,
    model: SVD,
    clip: Clip,
    progress_bar: AbstractContextManager[Progress],
    plan: ClipPlan | None = None,
) -> np.ndarray:
    """Sample and decode a clip, uint8 (f, H, W, 3)."""
    with console.not_finite(f"{clip.output.path} was not written"):
        with progress_bar as progress:
            latents = generation.sample_image(model, clip.first[None], clip.settings, progress=progress, plan=plan)
        return generation.decode(model, latents, request.decode_chunk, plan and plan.decode)[0]


def remaining(seconds: Sequence[float], left: int) -> str:
    """Text: how many clips are left, and about how long they take. `seconds`: times of the finished clips."""
    usual = seconds[1:] or seconds  # the first one compiles
    return f"; {_count(left)} left, about {duration(left * sum(usual) / len(usual))}" if left else ""


def _count(clips: int) -> str:
    return "1 clip" if clips == 1 else f"{clips:,} clips"


def command(argv: list[str] | None) -> None:
    request = parse(argv)
    with using(request.kernels):
        run(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
