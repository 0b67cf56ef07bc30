"""From a checked command line of `sample.interpolate` to its files."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from sample import console, contact_sheet
from sample.batches.request import InterpolationRequest
from sample.output_files import Outputs, write_latents
from svdjax import chain
from svdjax.devices.placing import to_host
from svdjax.frame_rate.sampling import rate_evaluations
from svdjax.frame_rate.windows import frames_at_rate
from svdjax.media import video
from svdjax.models.svd import SVD
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.clip_work import latent_shape
from svdjax.sampling.draws import Draws, draw, joined
from svdjax.sampling.methods import METHODS, run_of
from svdjax.sampling.sampler import Preview, Progress


def evaluations_of(request: InterpolationRequest) -> int:
    """UNet evaluations of all clips."""
    settings, scheduler = request.settings, request.model.config.scheduler
    sampled = run_of(request.method, settings, scheduler).evaluations
    return request.clips * (sampled + rate_evaluations(settings.num_frames, request.factor, scheduler))


def generate(
    request: InterpolationRequest,
    model: SVD,
    plan: ClipPlan | None,
    progress: Progress,
    preview: Preview | None = None,
    warn: Callable[[str], object] = print,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sample the clips of a request and join them.

    Args:
        request: the command line.
        model: loaded as `plan` requires.
        plan, progress, preview: see `svdjax.chain.interpolate_pairs`.
        warn: called with a line for each pair of keyframes that are too different.

    Returns:
        The video, uint8 (f, H, W, 3), and the latents of each clip, (f, h, w, c).
    """
    made = _sampled(request, [image[None] for image in request.keyframes], request.noise, model, plan, progress, preview)
    return _joined(request, made, 0, warn)


def generate_together(
    requests: Sequence[InterpolationRequest], together: int, model: SVD, plan: ClipPlan | None, progress: Progress
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """The results of `generate` for requests that differ only in keyframes, draws and files, sampled in one batch.

    Args:
        requests: at most `together`.
        together: clips of a batch. A smaller one is filled up: all batches have one shape, which is compiled once.
        model, plan, progress: see `generate`.
    """
    if together == 1:
        return [generate(request, model, plan, progress) for request in requests]
    first = requests[0]
    padded = [*requests, *[requests[-1]] * (together - len(requests))]
    shape = latent_shape(model.config, first.settings, first.keyframes[0].shape[:2])
    draws = [request.noise or draw([request.settings.seed], first.keyframes[0].shape, shape) for request in padded]
    images = [np.stack(images) for images in zip(*(request.keyframes for request in padded), strict=True)]
    made = _sampled(first, images, joined(draws), model, plan, progress)
    return [_joined(request, made, k, print) for k, request in enumerate(requests)]


def _sampled(
    request: InterpolationRequest,
    keyframes: Sequence[np.ndarray],
    draws: Draws | None,
    model: SVD,
    plan: ClipPlan | None,
    progress: Progress,
    preview: Preview | None = None,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames, latents and `too_different` of the clips between keyframes (b, H, W, 3), with the settings of a request."""
    clips = chain.interpolate_pairs(
        model,
        keyframes,
        request.settings,
        method=request.method,
        draws=draws,
        decode_chunk=request.decode_chunk,
        progress=progress,
        loop=request.loop,
        keep_keyframes=request.keep_keyframes,
        plan=plan,
        rate=request.factor,
        preview=preview,
    )
    # copied to the host, so that a long chain's latents don't stay on the device
    return [(clip.frames, to_host(clip.latents), clip.too_different()) for clip in clips]


def _joined(
    request: InterpolationRequest,
    made: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    k: int,
    warn: Callable[[str], object],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The video of entry `k` of a batch, and the latents of its clips."""
    _warn_of_different_keyframes(request, np.array([apart[k] for *_, apart in made]), warn)
    return chain.join([frames[k : k + 1] for frames, *_ in made], loop=request.loop)[0], [latents[k] for _, latents, _ in made]


def _warn_of_different_keyframes(request: InterpolationRequest, apart: np.ndarray, warn: Callable[[str], object]) -> None:
    """Warn of pairs of keyframes that have too little in common; `apart` is the `Clip.too_different` of each, (n,)."""
    if not METHODS[request.method].fine_tuned:
        return
    for number in np.flatnonzero(apart):
        pair = "the keyframes" if len(apart) == 1 else f"keyframes {number + 1} and {(number + 1) % len(request.keyframes) + 1}"
        warn(
            f"warning: {request.output.path.name}: {pair} may have too little in common: the two directions differ by "
            f"{apart[number]:.2f} times their mean, above {chain.MOST_DISAGREEMENT}; expect a fade instead of motion"
        )


def write(request: InterpolationRequest, movie: np.ndarray, latents: list[np.ndarray], started: float, note: str = "") -> None:
    """Write the video, then the latents and the contact sheet if requested; a file that fails doesn't cost the others.

    Args:
        request: the command line.
        movie: uint8 (f, H, W, 3).
        latents: of each clip, (f, h, w, c).
        started: `time.monotonic()` at the start of the run.
        note: end of the line that is printed for the video.

    Raises:
        InputError: files that can't be written, after the others were.
    """
    outputs = Outputs()
    with outputs.attempt():
        large = movie.repeat(request.scale, 1).repeat(request.scale, 2)
        video.write_video(request.output, large, request.rate, request.metadata)
        length, seconds = float(len(movie) / request.rate), console.duration(time.monotonic() - started)
        print(f"wrote {request.output.path}: {len(movie)} frames, {length:.1f} s of video, in {seconds}{note}", flush=True)
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
