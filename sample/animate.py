"""`python -m sample.animate`: images in, a clip of each out. SVD's own image to video, the paper's source of training data."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from sample import console, sampling_options
from svdjax import pipeline
from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.media import fit, images, video
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling.settings import Settings

FORMATS = {"mp4": ".mp4", "frames": video.FOLDER}  # what --format takes, and `video.KINDS`
_NOT_SAID = ("fusion", "recurrence", "recurrence_ratio")  # settings of two directions


@dataclass(frozen=True)
class Clip:
    """One clip to make: the first frame, already fitted, and where the video goes."""

    first: np.ndarray
    settings: Settings
    output: video.OutputPlan
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """A checked command line: everything that can be known before the model is loaded."""

    model: Path
    config: SVDConfig
    clips: list[Clip]
    decode_chunk: int | None
    dtype: str | None


def parser() -> cli.Parser:
    """The command's options; defaults are those of diffusers' StableVideoDiffusionPipeline."""
    p = cli.Parser(prog="python -m sample.animate", description="A clip that begins with an image, for every image.")
    p.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    sampling_options.add_model(p)
    p.add_argument("-o", "--out", metavar="DIR", help="folder for the clips, each named after its image")
    p.add_argument("--overwrite", action="store_true", help="make clips again that exist in DIR (they are skipped)")
    p.add_argument("--clips-per-image", type=int, default=1, metavar="N", help="from as many seeds: SEED, SEED + 1, ... (1)")
    p.add_argument("--format", choices=tuple(FORMATS), default="mp4", help="mp4, or frames: a folder of PNGs a clip (mp4)")
    sampling_options.add_sampling(p, steps=pipeline.IMAGE_TO_VIDEO_STEPS)
    return p


def check(argv: list[str] | None) -> Request:
    """Parse and check the command line, read all images; nothing long, nothing written."""
    args = parser().parse_args(argv)
    if not args.images:
        raise InputError("no images given, expected at least one image file")
    if not args.out:
        raise InputError("--out is missing: the folder for the clips")
    if args.clips_per_image < 1:
        raise InputError(f"--clips-per-image is {args.clips_per_image}, expected at least 1")
    sampling_options.check_decode_chunk(args)
    info, note = sampling_options.find_model(args)
    by_seed = [sampling_options.sampling_settings(args, info.config, seed=args.seed + k) for k in range(args.clips_per_image)]
    out = Path(args.out)
    if not out.is_dir():
        video.plan_output(f"{out}{os.sep}", fps=args.fps)  # where it can be made
    names: dict[str, str] = {}
    clips, notes = [], [note]
    for path in args.images:
        stem = Path(path).stem
        if stem in names:
            raise InputError(f"{path}: its clip would have the name of that of {names[stem]}: rename one of them")
        names[stem] = path
        image, its_notes = images.load_image(path)
        size = sampling_options.video_size(args, image.shape, info.config)
        notes += [*its_notes, fit.describe_fit(Path(path).name, image.shape, size, args.fit)]
        first = fit.fit(image, size, args.fit)
        for k, settings in enumerate(by_seed):
            name = stem if len(by_seed) == 1 else f"{stem}-{k}"
            metadata = {
                "software": "svdjax",
                "image": Path(path).name,
                "model": sampling_options.model_name(args.model),
                "fit": args.fit,
                "size": f"{size[0]}x{size[1]}",
                "decode_chunk": str(args.decode_chunk or "all"),
                **{key: value for key, value in settings.as_text().items() if key not in _NOT_SAID},
            }
            output = plan(out / name, FORMATS[args.format], args.overwrite, size, settings.fps)
            if output is None:
                notes.append(describe_skipped(out / name, FORMATS[args.format], metadata))
            else:
                clips.append(Clip(first, settings, output, metadata))
    for note in filter(None, notes):
        print(note)
    return Request(args.model, info.config, clips, args.decode_chunk, args.dtype)


def target(path: Path, kind: str) -> str:
    """The name of a clip as `video.plan_output` understands it, whatever dots are in it."""
    return f"{path}{os.sep}" if kind == video.FOLDER else f"{path}{kind}"


def plan(path: Path, kind: str, overwrite: bool, size: tuple[int, int], fps: int) -> video.OutputPlan | None:
    """Where a clip goes, or None if it is there already; `path` has no ending."""
    name = target(path, kind)
    if not path.parent.is_dir():  # made with its first clip
        output = video.OutputPlan(Path(os.path.abspath(name)), kind, overwrite)
        video.check_frame_size(output, *size)
        return output
    there = any(Path(name).iterdir()) if os.path.isdir(name) else os.path.lexists(name)
    return None if there and not overwrite else video.plan_output(name, overwrite, size, fps)


def describe_skipped(path: Path, kind: str, metadata: Mapping[str, str]) -> str:
    """What is said of a clip that exists, and of how it was made if that was another way."""
    name = target(path, kind)
    try:
        found = video.read_metadata(name)
    except (OSError, ValueError, SyntaxError, AttributeError):  # Pillow and PyAV, of a damaged file or another program's
        found = {}
    found = found if isinstance(found, dict) else {}
    others = [f"{key} {found[key]} instead of {value}" for key, value in metadata.items() if found.get(key, value) != value]
    how = f", although it was made with {', '.join(others)}" if others else ""
    return f"{name}: exists and is kept{how} (--overwrite makes it again)"


def generate(request: Request) -> None:
    """Load the model, make the clips one after the other; each is written when it is complete."""
    clips = request.clips
    if not clips:
        print("nothing to do: every clip exists")
        return
    compilation_cache.enable()
    dtype = console.compute_dtype(request.dtype)
    evaluations = len(clips[0].settings.schedule(request.config.scheduler))
    frames = clips[0].settings.num_frames
    print(f"{_count(len(clips))} of {frames} frames, {evaluations} UNet evaluations each, {dtype}, {jax.devices()[0]}")
    model = checkpoint.load(request.model, dtype=dtype)
    seconds: list[float] = []
    for clip in clips:
        started = time.monotonic()
        path = clip.output.path
        with console.one_line_errors(f"{path} was not written"):
            with console.progress_bar(f"{path.name} ({len(seconds) + 1} of {len(clips)})", evaluations) as progress:
                latents = pipeline.sample_image(model, clip.first[None], clip.settings, progress=progress)
            movie = pipeline.decode(model, latents, request.decode_chunk)[0]
        path.parent.mkdir(exist_ok=True)
        video.write_video(clip.output, movie, clip.settings.fps, clip.metadata)
        seconds.append(time.monotonic() - started)
        print(f"wrote {path} in {duration(seconds[-1])}{remaining(seconds, len(clips))}", flush=True)


def remaining(seconds: Sequence[float], count: int) -> str:
    """How long the rest of `count` clips will take if it goes on as it did; `seconds` are those of the clips so far."""
    left = count - len(seconds)
    usual = seconds[1:] or seconds  # the first one compiles
    return f"; {_count(left)} left, about {duration(left * sum(usual) / len(usual))}" if left else ""


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 12 min, 2 h 34 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _count(clips: int) -> str:
    return "1 clip" if clips == 1 else f"{clips:,} clips"


def command(argv: list[str] | None) -> None:
    generate(check(argv))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
