"""Command-line options of `sample.animate`, checked before any long work."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from sample import output_files, planned_model, sampling_options
from sample.options import method_options
from svdjax import pipeline
from svdjax.errors import InputError, encodable
from svdjax.media import fit, images, output_plan, video, video_formats
from svdjax.model_sources import ModelSource
from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import compute_dtype
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import Settings

MOST_CLIPS = 10_000  # of one image
FORMATS = {"mp4": ".mp4", "frames": video_formats.FOLDER}  # values of --format, and their output formats
# settings that have no effect here
_TWO_DIRECTIONS = ("fusion", "recurrence", "recurrence_ratio", "prefix", "prefix_steps", "prefix_repeats")


@dataclass(frozen=True)
class Clip:
    """One clip to make: the first frame, already fitted, and where the video goes."""

    first: np.ndarray
    settings: Settings
    output: output_plan.OutputPlan
    metadata: Mapping[str, str]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.first.shape[1], self.first.shape[0]


@dataclass(frozen=True, kw_only=True)
class AnimationRequest:
    """The checked command line.

    Attributes:
        rate: frames per second of the files.
        memory: bytes of the device that the run may use; None without a limit.
        kernels: see `svdjax.kernels.choice`.
        mesh: devices to divide the clips over; None for one device.
    """

    model: ModelSource
    clips: list[Clip]
    rate: Fraction
    decode_chunk: int | None
    dtype: str
    memory: int | None
    kernels: str
    mesh: Mesh | None


def parser() -> cli.Parser:
    """The command's options, with the defaults of diffusers' StableVideoDiffusionPipeline."""
    p = cli.Parser(prog="python -m sample.animate", description="For each image, a clip that starts with it.")
    p.add_argument("images", nargs="*", type=paths.path_text, metavar="IMAGE", help="image files")
    sampling_options.add_model(p)
    p.add_argument("-o", "--out", type=paths.path_text, metavar="DIR", help="folder for the clips, each named after its image")
    p.add_argument("--overwrite", action="store_true", help="make existing clips in DIR again (default: skip them)")
    p.add_argument(
        "--clips-per-image",
        type=int,
        default=1,
        metavar="N",
        help="clips of each image, with seeds SEED, SEED + 1, ... (default: 1)",
    )
    p.add_argument("--format", choices=tuple(FORMATS), default="mp4", help="frames: a folder of PNGs per clip (default: mp4)")
    sampling_options.add_sampling(p, steps=pipeline.IMAGE_TO_VIDEO_STEPS)
    sampling_options.add_playback(p)
    return p


def parse(argv: list[str] | None) -> AnimationRequest:
    """Parse and check the command line and read all images, before the long work. Nothing is written."""
    args = parser().parse_args(argv)
    check_arguments(args)
    memory_option.take_share(args.memory)
    source, note = sampling_options.find(args.model)
    clips, notes = plan_clips(args, source)
    for line in filter(None, [note, *notes]):
        print(line)
    return AnimationRequest(
        model=source,
        clips=clips,
        rate=sampling_options.playback_rate(args, FORMATS[args.format]),
        decode_chunk=args.decode_chunk,
        dtype=compute_dtype(args.dtype),
        memory=memory_option.start(args.memory),
        kernels=args.kernels,
        mesh=choose_mesh(args, source, clips),
    )


def choose_mesh(args: argparse.Namespace, model: ModelSource, clips: Sequence[Clip]) -> Mesh | None:
    """The devices of a run; see `planned_model.choose_mesh`."""
    if not clips:
        return None
    alike = max(Counter(clip.size for clip in clips).values())  # those of one size are sampled together
    run = run_of("forward", clips[0].settings, model.config.scheduler)
    shapes = [(*clip.size, clip.settings.num_frames) for clip in clips]
    return planned_model.choose_mesh(args, model.config, [run], shapes, alike)


def check_arguments(args: argparse.Namespace) -> None:
    """Check options, as far as that needs neither images nor a model."""
    if not args.images:
        raise InputError("no images given, expected at least one image file")
    if not args.out:
        raise InputError("--out is missing, expected a folder for the clips")
    if args.clips_per_image < 1:
        raise InputError(f"--clips-per-image is {args.clips_per_image}, expected at least 1")
    if args.clips_per_image > MOST_CLIPS:  # all clips are planned before the first is made
        raise InputError(f"--clips-per-image is {args.clips_per_image}, expected at most {MOST_CLIPS}")
    sampling_options.check_decode_chunk(args)
    sampling_options.playback_rate(args, FORMATS[args.format])
    if not Path(args.out).is_dir():
        output_plan.plan_output(f"{args.out}{os.sep}")  # check that it can be created
    names: dict[str, str] = {}
    for path in args.images:
        stem = Path(path).stem
        if stem in names:
            raise InputError(f"{path}: its clip would have the same name as that of {names[stem]}: rename one of the images")
        names[stem] = path


def plan_clips(args: argparse.Namespace, model: ModelSource) -> tuple[list[Clip], list[str | None]]:
    """The clips to make, for every image and seed, and notes for the user."""
    seeds = range(args.seed, args.seed + args.clips_per_image)
    defaults = {"steps": pipeline.IMAGE_TO_VIDEO_STEPS}
    by_seed = [
        sampling_options.sampling_settings(args, model, method="forward", defaults=defaults, seed=seed) for seed in seeds
    ]
    run = run_of("forward", by_seed[0], model.config.scheduler)
    clips: list[Clip] = []
    notes: list[str | None] = [*method_options.check_effect(args, run, by_seed[0])]
    for path in args.images:
        image, its_notes = images.load_image(path)
        size = sampling_options.video_size(args, image.shape, model.config)
        notes += [*its_notes, fit.describe_fit(Path(path).name, image.shape, size, args.fit)]
        first = fit.fit(image, size, args.fit)
        for k, settings in enumerate(by_seed):
            out = Path(args.out) / (Path(path).stem + (f"-{k}" if len(by_seed) > 1 else ""))
            metadata = metadata_of(args, path, model, settings, size)
            output = plan(out, FORMATS[args.format], args.overwrite, size)
            if output is None:
                notes.append(describe_skipped(out, FORMATS[args.format], metadata))
            else:
                output_files.check_apart(output, {}, args.images)
                clips.append(Clip(first, settings, output, metadata))
    return clips, notes


def metadata_of(
    args: argparse.Namespace, image: str, model: ModelSource, settings: Settings, size: tuple[int, int]
) -> dict[str, str]:
    """Metadata of a clip's file: how it was made."""
    return {
        "software": "svdjax",
        "image": Path(image).name,
        "model": model.name,
        "fit": args.fit,
        "size": f"{size[0]}x{size[1]}",
        "decode_chunk": str(args.decode_chunk or "all"),
        **{key: value for key, value in settings.as_text().items() if key not in _TWO_DIRECTIONS},
        **sampling_options.playback_metadata(args, sampling_options.playback_rate(args, FORMATS[args.format])),
    }


def target(path: Path, kind: str) -> str:
    """The path of a clip for `output_plan.plan_output`; its name may contain dots."""
    return f"{path}{os.sep}" if kind == video_formats.FOLDER else f"{path}{kind}"


def plan(path: Path, kind: str, overwrite: bool, size: tuple[int, int]) -> output_plan.OutputPlan | None:
    """Where a clip goes, or None if it exists and is kept; `path` has no ending."""
    name = target(path, kind)
    if not path.parent.is_dir():  # it is created for the first clip
        paths.check_reachable(path.absolute().parent.parent / os.path.basename(name.rstrip(os.sep)), name)  # its length
        output = output_plan.OutputPlan(Path(os.path.abspath(name)), kind, overwrite)
        output_plan.check_frame_size(output, *size)
        return output
    there = any(Path(name).iterdir()) if os.path.isdir(name) else os.path.lexists(name)
    return None if there and not overwrite else output_plan.plan_output(name, overwrite, size)


def describe_skipped(path: Path, kind: str, metadata: Mapping[str, str]) -> str:
    """A note on an existing clip, with the settings that differ from the current ones."""
    name = target(path, kind)
    try:
        found = video.read_metadata(name)
    except (OSError, ValueError, SyntaxError, AttributeError):  # from Pillow or PyAV, for damaged or foreign files
        found = {}
    found = found if isinstance(found, dict) else {}
    # without --playback-fps, the file has the rate of --fps; guidance_steps are stored only if they were given
    found, current = (
        {**({"playback_fps": facts["fps"], "guidance_steps": "all"} if "fps" in facts else {}), **facts}
        for facts in (found, metadata)
    )
    others = [
        f"{key} {found[key]} instead of {value}"
        for key, value in current.items()
        if found.get(key, encodable(value)) != encodable(value)
    ]
    how = f", although it was made with {', '.join(others)}" if others else ""
    return f"{name}: exists and is kept{how} (--overwrite makes it again)"
