"""`python -m sample.interpolate`: two or more keyframes in, the video between them out; or many pairs of keyframes."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import dataclasses
import time

import jax

from sample import console, planned_model
from sample.batches import batch, options
from sample.batches.clip import evaluations_of, generate, overview, write
from sample.interpolation_options import InterpolationRequest, check_alone, parse, parser
from svdjax.frame_rate.windows import frames_at_rate
from svdjax.kernels.choice import using
from svdjax.parallel.main_process import leave, on_main, say
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling.methods import run_of

__all__ = ["generate", "main", "overview", "parse", "run", "write"]


def run(request: InterpolationRequest) -> None:
    """Load the model, sample the clip of each pair of neighbouring keyframes, write the video."""
    compilation_cache.enable()
    started = time.monotonic()
    settings, pairs = request.settings, request.clips
    height, width, _ = request.keyframes[0].shape
    updates = run_of(request.method, settings, request.model.config.scheduler)
    reused = f", deep features reused in {updates.reused} of {len(updates)} updates" * (settings.deep_every > 1)
    evaluations = evaluations_of(request)
    size, where = f"{width}x{height}", f"{request.dtype}, {planned_model.describe(request.mesh)}"
    frames = frames_at_rate(settings.num_frames, request.factor)
    say(f"{frames} frames of {size}, {evaluations} UNet evaluations{reused}, {where}")
    if (processes := jax.process_count()) > 1:
        say(f"one run over {processes} processes: if one of them ends, all end")
    model, plans = planned_model.load(
        request.model,
        request.dtype,
        request.memory,
        settings,
        [(width, height)],
        backward=request.backward,
        method=request.method,
        decode_chunk=request.decode_chunk,
        draws=request.noise,
        rate=request.factor,
        mesh=request.mesh,
    )
    plan = plans[width, height]
    with console.progress_bar("sampling" if pairs == 1 else f"sampling {pairs} clips", evaluations) as progress:
        movie, latents = generate(request, model, plan, progress, warn=say)
    metadata = request.metadata | ({} if plan is None else plan.as_text())
    with console.lost_process("files that were written are complete"):
        on_main(lambda: write(dataclasses.replace(request, metadata=metadata), movie, latents, started))


def command(argv: list[str] | None) -> None:
    args = parser().parse_args(argv)
    if options.is_batch(args):
        batch.run(args)
        return
    with console.one_line_errors("nothing was written"):
        request = check_alone(args)
        with using(request.kernels):
            run(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
