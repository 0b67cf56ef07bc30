"""`python -m sample.interpolate`: two or more keyframes in, the video between them out."""

from __future__ import annotations

import itertools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from sample import options, running
from svdjax import checkpoint, cli, compilation_cache, delta, draws, fit, images, methods, pipeline, video
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.settings import FUSIONS, Settings

DEFAULT_OUT = "inbetween.mp4"


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
    metadata: dict[str, str]


def parser() -> cli.Parser:
    """The command's options; defaults of the sampler are those of `Settings`."""
    p = cli.Parser(prog="python -m sample.interpolate", description="The video between two or more keyframes.")
    p.add_argument("keyframes", nargs="*", metavar="KEYFRAME", help="image files, in time order; at least two")
    p.add_argument("--demo", action="store_true", help="run the embedded model on its own keyframes")
    options.add_model(p)
    p.add_argument("--backward", type=Path, metavar="DIR", help="backward weights to use instead of the checkpoint's own")
    p.add_argument("--method", choices=methods.METHODS, default="dual", help="; ".join(map(": ".join, methods.METHODS.items())))
    p.add_argument("-o", "--out", default=DEFAULT_OUT, help=".mp4, .gif, .webp, or a folder of PNGs (%(default)s)")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    options.add_sampling(p, steps=Settings.steps)
    p.add_argument("--fusion", choices=FUSIONS, default=Settings.fusion, help="how the directions are fused (%(default)s)")
    p.add_argument("--recurrence", type=int, default=Settings.recurrence, help="redo each early step so often (%(default)s)")
    p.add_argument(
        "--recurrence-ratio", type=float, default=Settings.recurrence_ratio, help="share of the steps redone (%(default)s)"
    )
    p.add_argument("--noise", type=Path, metavar="FILE.npz", help="random draws to use instead of the seed's")
    p.add_argument("--save-latents", type=Path, metavar="FILE.npz", help="also write the sampler's final latents")
    return p


def check(argv: list[str] | None) -> Request:
    """Parse and check the command line, read the keyframes; nothing long, nothing written."""
    args = parser().parse_args(argv)
    if args.demo:
        raise InputError("--demo: no model is embedded yet; convert one and give --model (see README)")
    options.check_decode_chunk(args)
    if len(args.keyframes) < 2:
        raise InputError(f"{len(args.keyframes)} keyframes given, expected at least two image files")
    info = options.require_model(args)
    config = info.config
    tuned = info.backward if args.backward is None else delta.read_backward_info(args.backward)
    try:
        methods.check(args.method, tuned["trained"] if tuned else None)
    except InputError as e:
        raise InputError(f"{args.backward or args.model}: {e}") from None
    settings = options.sampling_settings(
        args, config, fusion=args.fusion, recurrence=args.recurrence, recurrence_ratio=args.recurrence_ratio
    )
    loaded, notes = images.load_keyframes(args.keyframes)
    size = options.video_size(args, loaded[0].shape, config)
    if args.backward is not None:
        notes.append(delta.transfer_note(args.backward, info.sources))
    for path, image in zip(args.keyframes, loaded, strict=True):
        notes.append(fit.describe_fit(Path(path).name, image.shape, size, args.fit))
    output = video.plan_output(args.out, args.overwrite, size, settings.fps)
    if args.save_latents is not None:
        check_latents_path(args.save_latents, args.overwrite)
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
        "model": args.model.name,
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
        metadata,
    )


def check_latents_path(path: Path, overwrite: bool) -> None:
    if path.suffix != ".npz":
        raise InputError(f"--save-latents {path}: expected a file name ending in .npz")
    if not path.parent.is_dir():
        raise InputError(f"--save-latents {path}: there is no folder {path.parent}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"--save-latents {path}: exists already (--overwrite replaces a file)")


def write_latents(path: Path, latents: np.ndarray) -> None:
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, latents=latents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def generate(request: Request) -> None:
    """Load the model, make the clip of each pair of neighbouring keyframes, write the video."""
    compilation_cache.enable()
    dtype = running.compute_dtype(request.dtype)
    started = time.monotonic()
    settings = request.settings
    height, width, _ = request.keyframes[0].shape
    evaluations = len(settings.schedule(request.config.scheduler))
    print(f"{settings.num_frames} frames of {width}x{height}, {evaluations} UNet evaluations, {dtype}, {jax.devices()[0]}")
    model = checkpoint.load(request.model, dtype=dtype, backward=request.backward)

    frames, latents = [], []
    pairs = list(itertools.pairwise(request.keyframes))
    for i, (first, last) in enumerate(pairs):
        label = "sampling" if len(pairs) == 1 else f"sampling pair {i + 1} of {len(pairs)}"
        with running.progress_bar(label, evaluations) as progress:
            result = pipeline.sample_pair(
                model, first[None], last[None], settings, method=request.method, draws=request.noise, progress=progress
            )
        print("decoding", file=sys.stderr)
        clip = pipeline.decode(model, result, request.decode_chunk)[0]
        # the last frame of a clip and the first of the next show the same keyframe: it stays once
        frames.append(clip if i == 0 else clip[1:])
        latents.append(np.asarray(result[0]))
    if request.save_latents is not None:
        write_latents(request.save_latents, latents[0] if len(pairs) == 1 else np.stack(latents))
    movie = np.concatenate(frames)
    path = video.write_video(request.output, movie, settings.fps, request.metadata)
    seconds = time.monotonic() - started
    print(f"wrote {path}: {len(movie)} frames, {len(movie) / settings.fps:.1f} s of video, in {seconds:.0f} s")


def command(argv: list[str] | None) -> None:
    request = check(argv)
    with running.one_line_errors("nothing was written"):
        generate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
