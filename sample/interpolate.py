"""`python -m sample.interpolate`: two or more keyframes in, the video between them out."""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sample import console, contact_sheet, sampling_options
from sample.evaluation import keyframe_pairs
from svdjax import pipeline
from svdjax.checkpoints import checkpoint, delta
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.media import fit, images, video
from svdjax.runtime import cli, compilation_cache
from svdjax.runtime.atomic import new_file
from svdjax.sampling import draws, methods
from svdjax.sampling.settings import Settings

DEFAULT_OUT = "inbetween.mp4"
DEMO_OUT, DEMO_SHEET = "svdjax-demo.mp4", "svdjax-demo.png"  # names that nobody else has: a later demo replaces them
DEMO_NUMBER = 3  # of the clip of the embedded world whose keyframes the demo takes
DEMO_SCALE = 6  # times that its 64x64 pixels are enlarged in the video


@dataclass(frozen=True)
class Request:
    """A checked command line: everything that can be known before the model is loaded."""

    model: Path
    backward: Path | None
    config: SVDConfig
    keyframes: list[np.ndarray]
    settings: Settings
    method: str
    output: video.OutputPlan
    decode_chunk: int | None
    dtype: str | None
    noise: draws.Draws | None
    save_latents: Path | None
    sheet: Path | None
    scale: int
    metadata: dict[str, str]


def parser() -> cli.Parser:
    """The command's options; defaults of the sampler are those of `Settings`, or the embedded model's."""
    p = cli.Parser(prog="python -m sample.interpolate", description="The video between two or more keyframes.")
    p.add_argument("keyframes", nargs="*", metavar="KEYFRAME", help="image files, in time order; at least two")
    p.add_argument("--demo", action="store_true", help="the embedded model on keyframes that it never saw")
    sampling_options.add_model(p)
    p.add_argument("--backward", type=Path, metavar="DIR", help="backward weights to use instead of the checkpoint's own")
    p.add_argument("--method", choices=methods.METHODS, default="dual", help="; ".join(map(": ".join, methods.METHODS.items())))
    p.add_argument("-o", "--out", help=f".mp4, .gif, .webp, or a folder of PNGs ({DEFAULT_OUT})")
    p.add_argument("--sheet", type=Path, metavar="FILE.png", help="also write keyframes, frames and a cross-fade side by side")
    p.add_argument("--overwrite", action="store_true", help="replace files that exist: OUT, --sheet, --save-latents")
    sampling_options.add_sampling(p)
    sampling_options.add_recurrence(p)
    p.add_argument("--noise", type=Path, metavar="FILE.npz", help="random draws to use instead of the seed's")
    p.add_argument("--save-latents", type=Path, metavar="FILE.npz", help="also write the sampler's final latents")
    return p


def check(argv: list[str] | None) -> Request:
    """Parse and check the command line, read the keyframes; nothing long, nothing written."""
    args = parser().parse_args(argv)
    if args.demo and (args.keyframes or args.model or args.backward):
        raise InputError("--demo is the embedded model on keyframes of its own: leave out keyframes, --model and --backward")
    sampling_options.check_decode_chunk(args)
    if not args.demo and len(args.keyframes) < 2:
        raise InputError(f"{len(args.keyframes)} keyframes given, expected at least two image files (or --demo)")
    if args.out == "":
        raise InputError("-o is empty, expected a file or a folder")
    overwrite = overwrite_sheet = args.overwrite
    if args.demo and args.out is None:  # else files are written that were named, and no others
        args.out, overwrite = DEMO_OUT, True
        if args.sheet is None:
            args.sheet, overwrite_sheet = Path(DEMO_SHEET), True
    out = args.out or DEFAULT_OUT
    info, model_note = sampling_options.find_model(args, args.method)
    config = info.config
    tuned = info.backward if args.backward is None else delta.read_backward_info(args.backward)
    try:
        methods.check(args.method, tuned["trained"] if tuned else None)
    except InputError as e:
        raise InputError(f"{args.backward or args.model}: {e}") from None
    settings = sampling_options.sampling_settings(args, config, **sampling_options.recurrence_settings(args))
    if args.demo:
        truth = keyframe_pairs.of_world(1, DEMO_NUMBER).pairs[0].read()
        args.keyframes, loaded, notes = ["first", "last"], [truth[0], truth[-1]], []
    else:
        loaded, notes = images.load_keyframes(args.keyframes)
    notes.insert(0, model_note)
    size = sampling_options.video_size(args, loaded[0].shape, config)
    if args.backward is not None:
        notes.append(delta.transfer_note(args.backward, info.sources))
    for path, image in zip(args.keyframes, loaded, strict=True):
        notes.append(fit.describe_fit(Path(path).name, image.shape, size, args.fit))
    scale = DEMO_SCALE if args.demo else 1
    output = video.plan_output(out, overwrite, (size[0] * scale, size[1] * scale), settings.fps)
    if args.sheet is not None:
        check_side_file("--sheet", args.sheet, ".png", overwrite_sheet)
    if args.save_latents is not None:
        check_side_file("--save-latents", args.save_latents, ".npz", args.overwrite)
    noise = None
    if args.noise is not None:
        width, height = size
        latent_shape = pipeline.latent_shape(config, settings, (height, width))
        recurrences = settings.schedule(config.scheduler).recurrences
        noise = draws.load_draws(args.noise, (height, width, 3), latent_shape, recurrences)
    for note in filter(None, notes):
        print(note)
    keyframes = [fit.fit(image, size, args.fit) for image in loaded]
    metadata = {
        "software": "svdjax",
        "keyframes": " ".join(Path(k).name for k in args.keyframes),
        "model": sampling_options.model_name(args.model),
        "backward": "the model's own" if args.backward is None else "/".join(args.backward.resolve().parts[-2:]),
        "method": args.method,
        "fit": args.fit,
        "decode_chunk": str(args.decode_chunk or "all"),
        "noise": args.noise.name if args.noise else "from the seed",
        **settings.as_text(),
    }
    return Request(
        args.model,
        args.backward,
        config,
        keyframes,
        settings,
        args.method,
        output,
        args.decode_chunk,
        args.dtype,
        noise,
        args.save_latents,
        args.sheet,
        scale,
        metadata,
    )


def check_side_file(option: str, path: Path, ending: str, overwrite: bool) -> None:
    """Refuse the path of a file beside the video that can't be written, or may not be replaced."""
    if path.suffix != ending:
        raise InputError(f"{option} {path}: expected a file name ending in {ending}")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{option} {path}: exists already (--overwrite replaces a file)")


def write_latents(path: Path, latents: np.ndarray) -> None:
    """One array, `latents`, (f, h, w, c) or a clip's each, (n, f, h, w, c), as `.npz`; `InputError` if it can't be."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, latents=latents)


def generate(request: Request) -> None:
    """Load the model, make the clip of each pair of neighbouring keyframes, write the video."""
    compilation_cache.enable()
    dtype = console.compute_dtype(request.dtype)
    started = time.monotonic()
    settings = request.settings
    height, width, _ = request.keyframes[0].shape
    evaluations = len(settings.schedule(request.config.scheduler))
    print(f"{settings.num_frames} frames of {width}x{height}, {evaluations} UNet evaluations, {dtype}, {jax.devices()[0]}")
    model = checkpoint.load(request.model, dtype=dtype, backward=request.backward)

    frames, latents = [], []
    neighbours = list(itertools.pairwise(request.keyframes))
    for i, (first, last) in enumerate(neighbours):
        label = "sampling" if len(neighbours) == 1 else f"sampling pair {i + 1} of {len(neighbours)}"
        with console.progress_bar(label, evaluations) as progress:
            result = pipeline.sample_pair(
                model, first[None], last[None], settings, method=request.method, draws=request.noise, progress=progress
            )
        print("decoding", file=sys.stderr)
        clip = pipeline.decode(model, result, request.decode_chunk)[0]
        # the last frame of a clip and the first of the next show the same keyframe: it stays once
        frames.append(clip if i == 0 else clip[1:])
        latents.append(np.asarray(result[0]))
    if request.save_latents is not None:
        write_latents(request.save_latents, latents[0] if len(neighbours) == 1 else np.stack(latents))
    movie = np.concatenate(frames)
    large = movie.repeat(request.scale, 1).repeat(request.scale, 2)
    path = video.write_video(request.output, large, settings.fps, request.metadata)
    if request.sheet is not None:
        contact_sheet.save(overview(request.keyframes, movie), request.sheet)
        print(f"wrote {request.sheet.absolute()}: the keyframes, the frames, and a cross-fade under them")
    seconds = time.monotonic() - started
    print(f"wrote {path}: {len(movie)} frames, {len(movie) / settings.fps:.1f} s of video, in {seconds:.0f} s")


def overview(keyframes: list[np.ndarray], movie: np.ndarray) -> Image.Image:
    """Keyframes where they belong in time, the frames, and what a cross-fade would make."""
    between = (len(movie) - 1) // (len(keyframes) - 1)
    given = np.full_like(movie, 255)
    given[::between] = keyframes
    fades = [contact_sheet.cross_fade(a, b, between + 1)[bool(i) :] for i, (a, b) in enumerate(itertools.pairwise(keyframes))]
    return contact_sheet.draw([("keyframes", given), ("svdjax", movie), ("cross-fade", np.concatenate(fades))])


def command(argv: list[str] | None) -> None:
    request = check(argv)
    with console.one_line_errors("nothing was written"):
        generate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
