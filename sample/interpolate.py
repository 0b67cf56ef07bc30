"""`python -m sample.interpolate`: two or more keyframes in, the video between them out."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import dataclasses
import itertools
import time

import jax
import numpy as np
from PIL import Image

from sample import console, contact_sheet, planned_model
from sample.interpolation_options import InterpolationRequest, parse
from sample.output_files import Outputs, write_latents
from svdjax import chain
from svdjax.frame_rate.sampling import rate_evaluations
from svdjax.frame_rate.windows import frames_at_rate
from svdjax.kernels.choice import using
from svdjax.media import video
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling.methods import run_of


def run(request: InterpolationRequest) -> None:
    """Load the model, sample the clip of each pair of neighbouring keyframes, write the video."""
    compilation_cache.enable()
    started = time.monotonic()
    settings, pairs = request.settings, request.clips
    height, width, _ = request.keyframes[0].shape
    scheduler = request.model.config.scheduler
    updates = run_of(request.method, settings, scheduler)
    reused = f", deep features reused in {updates.reused} of {len(updates)} updates" * (settings.deep_every > 1)
    evaluations = pairs * (updates.evaluations + rate_evaluations(settings.num_frames, request.factor, scheduler))
    size, where = f"{width}x{height}", f"{request.dtype}, {jax.devices()[0]}"
    frames = frames_at_rate(settings.num_frames, request.factor)
    print(f"{frames} frames of {size}, {evaluations} UNet evaluations{reused}, {where}")
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
    )
    plan = plans[width, height]
    with console.progress_bar("sampling" if pairs == 1 else f"sampling {pairs} clips", evaluations) as progress:
        clips = chain.interpolate_pairs(
            model,
            [image[None] for image in request.keyframes],
            settings,
            method=request.method,
            draws=request.noise,
            decode_chunk=request.decode_chunk,
            progress=progress,
            loop=request.loop,
            keep_keyframes=request.keep_keyframes,
            plan=plan,
            rate=request.factor,
        )
        # copied to the host, so that a long chain's latents don't stay on the device
        movies, latents = zip(*((clip.frames, np.asarray(clip.latents[0])) for clip in clips), strict=True)
    movie = chain.join(movies, loop=request.loop)[0]
    metadata = request.metadata | ({} if plan is None else plan.as_text())
    write(dataclasses.replace(request, metadata=metadata), movie, list(latents), started)


def write(request: InterpolationRequest, movie: np.ndarray, latents: list[np.ndarray], started: float) -> None:
    """Write the video, then the latents and the contact sheet if requested; a file that fails doesn't cost the others.

    Args:
        request: the command line.
        movie: uint8 (f, H, W, 3).
        latents: of each clip, (f, h, w, c).
        started: `time.monotonic()` at the start of the run.

    Raises:
        InputError: files that can't be written, after the others were.
    """
    outputs = Outputs()
    with outputs.attempt():
        large = movie.repeat(request.scale, 1).repeat(request.scale, 2)
        video.write_video(request.output, large, request.rate, request.metadata)
        length, seconds = float(len(movie) / request.rate), console.duration(time.monotonic() - started)
        print(f"wrote {request.output.path}: {len(movie)} frames, {length:.1f} s of video, in {seconds}")
    if request.save_latents is not None:
        with outputs.attempt():
            write_latents(request.save_latents, latents[0] if len(latents) == 1 else np.stack(latents))
            print(f"wrote {request.save_latents.absolute()}: the final latents")
    if request.sheet is not None:
        with outputs.attempt():
            contact_sheet.save(overview(request, movie), request.sheet)
            print(f"wrote {request.sheet.absolute()}: the keyframes, the frames, and a cross-fade under them")
    outputs.finish()


def overview(request: InterpolationRequest, movie: np.ndarray) -> Image.Image:
    """A contact sheet: keyframes at their times, the frames, and a cross-fade for comparison."""
    keyframes = [*request.keyframes, request.keyframes[0]] if request.loop else request.keyframes
    given = np.full_like(movie, 255)
    frames = frames_at_rate(request.settings.num_frames, request.factor)
    given[:: frames - 1] = request.keyframes
    fades = [contact_sheet.cross_fade(*ends, frames)[None] for ends in itertools.pairwise(keyframes)]
    faded = chain.join(fades, loop=request.loop)[0]
    return contact_sheet.render([("keyframes", given), ("svdjax", movie), ("cross-fade", faded)])


def command(argv: list[str] | None) -> None:
    request = parse(argv)
    with console.one_line_errors("nothing was written"), using(request.kernels):
        run(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
