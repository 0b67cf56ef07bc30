"""`python -m sample.interpolate`: two or more keyframes in, the video between them out."""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sample import console, contact_sheet, sampling_options
from svdjax import pipeline
from svdjax.errors import InputError
from svdjax.loading import ModelSource, trained_kinds_of
from svdjax.media import fit, images, output_plan, video
from svdjax.runtime import cli, compilation_cache
from svdjax.runtime.atomic import new_file
from svdjax.runtime.dtypes import compute_dtype
from svdjax.runtime.output_paths import check_new_file
from svdjax.sampling import draws, generation, methods
from svdjax.sampling.settings import Settings
from svdjax.world.drawing import render
from svdjax.world.scene import scene

DEFAULT_OUT = "inbetween.mp4"
DEMO_OUT, DEMO_SHEET = "svdjax-demo.mp4", "svdjax-demo.png"  # unusual names, because a later demo replaces these files
DEMO_SCENE = ("test", 3)  # the demo's keyframes are the ends of this clip of the embedded world
DEMO_SCALE = 6  # factor by which the demo's frames of 64x64 pixels are enlarged


@dataclass(frozen=True, kw_only=True)
class InterpolationRequest:
    """The checked command line.

    Attributes:
        keyframes: fitted to the video's size, uint8 (H, W, 3).
        scale: whole number by which the video's frames are enlarged.
        noise: random draws to use instead of the seed's, or None.
    """

    model: ModelSource
    backward: Path | None
    keyframes: list[np.ndarray]
    settings: Settings
    method: str
    output: output_plan.OutputPlan
    decode_chunk: int | None
    dtype: str
    noise: draws.Draws | None
    save_latents: Path | None
    sheet: Path | None
    scale: int
    metadata: dict[str, str]


def parser() -> cli.Parser:
    """The command's options."""
    p = cli.Parser(prog="python -m sample.interpolate", description="The video between two or more keyframes.")
    p.add_argument("keyframes", nargs="*", metavar="KEYFRAME", help="image files, in time order; at least two")
    p.add_argument("--demo", action="store_true", help="run the embedded model on two keyframes that it was not trained on")
    sampling_options.add_model(p)
    p.add_argument("--backward", type=Path, metavar="DIR", help="backward weights to use instead of the model's own")
    p.add_argument("--method", choices=methods.METHODS, default="dual", help="; ".join(map(": ".join, methods.METHODS.items())))
    p.add_argument("-o", "--out", help=f".mp4, .gif, .webp, or a folder of PNGs (default: {DEFAULT_OUT})")
    p.add_argument("--sheet", type=Path, metavar="FILE.png", help="also write a picture of keyframes, frames and a cross-fade")
    p.add_argument("--overwrite", action="store_true", help="replace files that exist: OUT, --sheet, --save-latents")
    sampling_options.add_sampling(p)
    sampling_options.add_recurrence(p)
    p.add_argument("--noise", type=Path, metavar="FILE.npz", help="random draws to use instead of the seed's")
    p.add_argument("--save-latents", type=Path, metavar="FILE.npz", help="also write the sampler's final latents")
    return p


def parse(argv: list[str] | None) -> InterpolationRequest:
    """Parse and check the command line and read the keyframes, before the long work. Nothing is written."""
    args = parser().parse_args(argv)
    check_arguments(args)
    source, model_note = sampling_options.find(args.model, args.method)
    check_backward(args, source)
    settings = sampling_options.sampling_settings(args, source, **sampling_options.recurrence_settings(args, source))
    names, loaded, notes = demo_keyframes() if args.demo else (args.keyframes, *images.load_keyframes(args.keyframes))
    size = sampling_options.video_size(args, loaded[0].shape, source.config)
    scale = DEMO_SCALE if args.demo else 1
    output, sheet = plan_outputs(args, (size[0] * scale, size[1] * scale), settings.fps)
    noise = None if args.noise is None else load_noise(args.noise, source, settings, size)
    fitted = [fit.describe_fit(Path(name).name, image.shape, size, args.fit) for name, image in zip(names, loaded, strict=True)]
    for note in filter(None, [model_note, *notes, source.transfer_note(args.backward), *fitted]):
        print(note)
    return InterpolationRequest(
        model=source,
        backward=args.backward,
        keyframes=[fit.fit(image, size, args.fit) for image in loaded],
        settings=settings,
        method=args.method,
        output=output,
        decode_chunk=args.decode_chunk,
        dtype=compute_dtype(args.dtype),
        noise=noise,
        save_latents=args.save_latents,
        sheet=sheet,
        scale=scale,
        metadata=metadata_of(args, names, source, settings),
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Check options, as far as that needs no file."""
    if args.demo and (args.keyframes or args.model or args.backward):
        raise InputError("--demo has its own model and keyframes: leave out keyframes, --model and --backward")
    if not args.demo and len(args.keyframes) < 2:
        raise InputError(f"{len(args.keyframes)} keyframes given, expected at least two image files (or --demo)")
    if args.out == "":
        raise InputError("-o is empty, expected a file or a folder")
    sampling_options.check_decode_chunk(args)


def check_backward(args: argparse.Namespace, model: ModelSource) -> None:
    """Raise `InputError` if the method can't use the backward weights."""
    kinds = model.trained_kinds() if args.backward is None else trained_kinds_of(args.backward)
    try:
        methods.check_backward_weights(args.method, kinds)
    except InputError as e:
        raise InputError(f"{args.backward or model.folder}: {e}") from None


def demo_keyframes() -> tuple[list[str], list[np.ndarray], list[str]]:
    """Names, keyframes and notes of the demo, as `load_keyframes` gives them: the ends of a clip not used in training."""
    clip = render(scene(*DEMO_SCENE))
    return ["first", "last"], [clip[0], clip[-1]], []


def plan_outputs(args: argparse.Namespace, size: tuple[int, int], fps: int) -> tuple[output_plan.OutputPlan, Path | None]:
    """Check the output files; return the plan of the video and the path of the contact sheet."""
    own = args.demo and args.out is None  # the demo's own files, which are replaced
    output = output_plan.plan_output(DEMO_OUT if own else args.out or DEFAULT_OUT, args.overwrite or own, size, fps)
    own_sheet = own and args.sheet is None
    sheet = Path(DEMO_SHEET) if own_sheet else args.sheet
    if sheet is not None:
        check_new_file(sheet, "--sheet", (".png",), overwrite=args.overwrite or own_sheet)
    if args.save_latents is not None:
        check_new_file(args.save_latents, "--save-latents", (".npz",), overwrite=args.overwrite)
    return output, sheet


def load_noise(path: Path, model: ModelSource, settings: Settings, size: tuple[int, int]) -> draws.Draws:
    """The draws of `--noise`, checked against the settings; `size` is (width, height)."""
    width, height = size
    shape = generation.latent_shape(model.config, settings, (height, width))
    recurrences = settings.schedule(model.config.scheduler).recurrences
    return draws.load_draws(path, (height, width, 3), shape, recurrences)


def metadata_of(args: argparse.Namespace, names: list[str], model: ModelSource, settings: Settings) -> dict[str, str]:
    """Metadata of the video file: how it was made."""
    return {
        "software": "svdjax",
        "keyframes": " ".join(Path(name).name for name in names),
        "model": model.name,
        "backward": "the model's own" if args.backward is None else "/".join(args.backward.resolve().parts[-2:]),
        "method": args.method,
        "fit": args.fit,
        "decode_chunk": str(args.decode_chunk or "all"),
        "noise": args.noise.name if args.noise else "from the seed",
        **settings.as_text(),
    }


def run(request: InterpolationRequest) -> None:
    """Load the model, sample the clip of each pair of neighbouring keyframes, write the video."""
    compilation_cache.enable()
    started = time.monotonic()
    settings = request.settings
    height, width, _ = request.keyframes[0].shape
    pairs = len(request.keyframes) - 1
    evaluations = pairs * len(settings.schedule(request.model.config.scheduler))
    size, where = f"{width}x{height}", f"{request.dtype}, {jax.devices()[0]}"
    print(f"{settings.num_frames} frames of {size}, {evaluations} UNet evaluations, {where}")
    model = request.model.load(dtype=request.dtype, backward=request.backward)
    with console.progress_bar("sampling" if pairs == 1 else f"sampling {pairs} clips", evaluations) as progress:
        clips = list(
            pipeline.interpolate_pairs(
                model,
                [image[None] for image in request.keyframes],
                settings,
                method=request.method,
                draws=request.noise,
                decode_chunk=request.decode_chunk,
                progress=progress,
            )
        )
    movie = pipeline.join([clip.frames for clip in clips])[0]
    write(request, movie, [np.asarray(clip.latents[0]) for clip in clips])
    seconds = time.monotonic() - started
    length = len(movie) / settings.fps
    print(f"wrote {request.output.path}: {len(movie)} frames, {length:.1f} s of video, in {console.duration(seconds)}")


def write(request: InterpolationRequest, movie: np.ndarray, latents: list[np.ndarray]) -> None:
    """Write the video, then the latents and the contact sheet if requested."""
    large = movie.repeat(request.scale, 1).repeat(request.scale, 2)
    video.write_video(request.output, large, request.settings.fps, request.metadata)
    if request.save_latents is not None:
        write_latents(request.save_latents, latents[0] if len(latents) == 1 else np.stack(latents))
    if request.sheet is not None:
        contact_sheet.save(overview(request.keyframes, movie), request.sheet)
        print(f"wrote {request.sheet.absolute()}: the keyframes, the frames, and a cross-fade under them")


def write_latents(path: Path, latents: np.ndarray) -> None:
    """Write one array, `latents`: (f, h, w, c), or (n, f, h, w, c) of n clips.

    Raises:
        InputError: the file can't be written.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, latents=latents)


def overview(keyframes: list[np.ndarray], movie: np.ndarray) -> Image.Image:
    """A contact sheet: keyframes at their times, the frames, and a cross-fade for comparison."""
    between = (len(movie) - 1) // (len(keyframes) - 1)
    given = np.full_like(movie, 255)
    given[::between] = keyframes
    fades = [contact_sheet.cross_fade(*ends, between + 1)[bool(i) :] for i, ends in enumerate(itertools.pairwise(keyframes))]
    return contact_sheet.render([("keyframes", given), ("svdjax", movie), ("cross-fade", np.concatenate(fades))])


def command(argv: list[str] | None) -> None:
    request = parse(argv)
    with console.one_line_errors("nothing was written"):
        run(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
