"""`python -m sample.animate`: a clip of each image. SVD's own image-to-video, the paper's source of training data."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from sample import console, output_files, planned_model
from sample.animation_options import AnimationRequest, Clip, parse
from sample.console import duration
from svdjax.errors import one_line
from svdjax.kernels.choice import using
from svdjax.media import video
from svdjax.models.svd import SVD
from svdjax.parallel.sampling_mesh import clips_together
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling import generation
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.clip_work import latent_shape
from svdjax.sampling.draws import draw
from svdjax.sampling.methods import run_of
from svdjax.sampling.sampler import Progress


def run(request: AnimationRequest) -> None:
    """Load the model and make the clips.

    Raises:
        InputError: see `make`.
    """
    clips = request.clips
    if not clips:
        print("nothing to do: every clip exists")
        return
    compilation_cache.enable()
    evaluations = run_of("forward", clips[0].settings, request.model.config.scheduler).evaluations
    frames = clips[0].settings.num_frames
    where = f"{request.dtype}, {planned_model.describe(request.mesh)}"
    print(f"{_count(len(clips))} of {frames} frames, {evaluations} UNet evaluations each, {where}")
    model, plans = planned_model.load(
        request.model,
        request.dtype,
        request.memory,
        clips[0].settings,
        [clip.size for clip in clips],
        method="forward",
        decode_chunk=request.decode_chunk,
        mesh=request.mesh,
    )
    make(request, model, plans, evaluations)


def make(request: AnimationRequest, model: SVD, plans: Mapping[tuple[int, int], ClipPlan | None], evaluations: int) -> None:
    """Make the clips one after the other, or on a mesh several at a time; each is written when it is complete.

    A clip that fails doesn't cost the others: those sampled with it are sampled again, one by one. The exception is a device
    that runs out of memory: they are as large.

    Args:
        request: the command line.
        model: loaded as `plans` requires.
        plans: by the size of the clips.
        evaluations: UNet evaluations of a clip.

    Raises:
        InputError: clips that failed, after the others were made.
    """
    clips = request.clips
    outputs = output_files.Outputs()
    seconds: list[float] = []  # of each round that made clips
    number = 0  # of the last clip that was made or failed
    waiting = deque(groups(clips, clips_together(request.mesh, 1)))
    while waiting:
        started, group = time.monotonic(), waiting.popleft()
        path, plan = group[0].output.path, plans[group[0].size]
        numbers = " to ".join(map(str, dict.fromkeys((number + 1, number + len(group)))))
        bar = console.progress_bar(f"{one_line(path.name)} ({numbers} of {len(clips)})", evaluations)
        movies, sampling = [], output_files.Outputs()
        with console.out_of_memory(f"{path} was not written"), sampling.attempt():
            movies = make_clips(request, model, group, bar, plan)
        if sampling.failures and len(group) > 1:  # perhaps only one of them is to blame
            waiting.extendleft([clip] for clip in reversed(group))
            continue
        if sampling.failures:
            outputs.failures += sampling.failures
            number += 1
            continue
        for clip, movie in zip(group, movies, strict=True):
            number += 1
            with outputs.attempt():
                path = clip.output.path
                path.parent.mkdir(exist_ok=True)
                metadata = {**clip.metadata, **({} if plan is None else plan.as_text())}
                video.write_video(clip.output, movie, request.rate, metadata)
                elapsed = time.monotonic() - started
                note = remaining([*seconds, elapsed], len(clips) - number, len(waiting))
                print(f"wrote {path} in {duration(elapsed / len(group))}{note}", flush=True)
        seconds.append(time.monotonic() - started)
    outputs.finish()


def groups(clips: Sequence[Clip], together: int) -> Iterator[Sequence[Clip]]:
    """Clips of one size, in groups of at most `together`; sizes in the order of their first clips."""
    by_size: dict[tuple[int, int], list[Clip]] = {}  # groups of consecutive clips would be smaller, and cost as much
    for clip in clips:
        by_size.setdefault(clip.size, []).append(clip)
    for alike in by_size.values():
        yield from (alike[k : k + together] for k in range(0, len(alike), together))


def make_clips(
    request: AnimationRequest,
    model: SVD,
    clips: Sequence[Clip],
    progress_bar: AbstractContextManager[Progress],
    plan: ClipPlan | None = None,
) -> np.ndarray:
    """Sample and decode clips of one size together, uint8 (n, f, H, W, 3).

    Raises:
        InputError: latents that are not finite, of any of the clips.
    """
    together = clips_together(request.mesh, 1)
    padded = [*clips, *[clips[-1]] * (together - len(clips))]  # all groups have one shape: compiled once
    settings, images = clips[0].settings, np.stack([clip.first for clip in padded])
    shape = latent_shape(model.config, settings, images.shape[1:3])
    draws = draw([clip.settings.seed for clip in padded], images.shape[1:], shape)
    with console.not_finite(f"{clips[0].output.path} was not written"):
        with progress_bar as progress:
            latents = generation.sample_image(model, images, settings, draws=draws, progress=progress, plan=plan)
        return generation.decode(model, latents, request.decode_chunk, plan and plan.decode)[: len(clips)]


def remaining(seconds: Sequence[float], clips: int, rounds: int) -> str:
    """Text: how many clips are left, and about how long they take.

    Args:
        seconds: of each round that made clips, one or several together.
        clips: number of clips left.
        rounds: number of rounds left; one takes about as long as another, whatever the number of its clips.
    """
    usual = seconds[1:] or seconds  # the first one compiles
    about = f", about {duration(rounds * sum(usual) / len(usual))}" if rounds else ""
    return f"; {_count(clips)} left{about}" if clips else ""


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
