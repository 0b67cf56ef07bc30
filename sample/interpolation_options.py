"""Command-line options of `sample.interpolate`, checked before any long work."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

from sample import output_files, planned_model, sampling_options
from sample.batches import options
from sample.batches.metadata import KEYFRAMES_HASH, hash_of, metadata_of
from sample.batches.request import CheckedOptions, InterpolationRequest
from sample.options import method_options
from svdjax import chain
from svdjax.errors import InputError
from svdjax.frame_rate.windows import RATES, check_rate, frames_at_rate
from svdjax.media import fit, images, output_plan
from svdjax.model_sources import ModelSource
from svdjax.parallel import cluster
from svdjax.parallel.main_process import agreed, say
from svdjax.runtime import cli, memory_option, paths
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

_transfer_notes: dict[tuple[Path, Path | None], str | None] = {}


def parser() -> cli.Parser:
    """The command's options."""
    p = cli.Parser(prog="python -m sample.interpolate", description="The video between two or more keyframes.")
    p.add_argument(
        "keyframes", nargs="*", type=paths.path_text, metavar="KEYFRAME", help="image files, in time order; at least two"
    )
    p.add_argument("--demo", action="store_true", help="run the embedded model on two keyframes that it was not trained on")
    sampling_options.add_model(p)
    p.add_argument("--backward", type=paths.path, metavar="DIR", help="backward weights to use instead of the model's own")
    method_options.add_method(p)
    p.add_argument(
        "-o",
        "--out",
        type=paths.path_text,
        metavar="OUT",
        help=f".mp4, .gif, .webp, or a folder of PNGs (default: {DEFAULT_OUT})",
    )
    p.add_argument(
        "--sheet", type=paths.path, metavar="FILE.png", help="also write a picture of keyframes, frames and a cross-fade"
    )
    p.add_argument("--overwrite", action="store_true", help="replace files that exist: OUT, --sheet, --save-latents")
    options.add_batches(p)
    options.add_hosts(p)
    sampling_options.add_sampling(p)
    sampling_options.add_recurrence(p)
    method_options.add_prefix(p)
    sampling_options.add_playback(p)
    p.add_argument(
        "--rate",
        type=int,
        default=1,
        choices=RATES,
        help="as many times the frames, at as many times the frame rate: new ones between each two (default: 1)",
    )
    p.add_argument("--loop", action="store_true", help="lead from the last keyframe back to the first, to repeat the video")
    p.add_argument(
        "--keep-keyframes",
        action="store_true",
        help="show the keyframes themselves, which the VAE changes a little, and adapt the frames between them",
    )
    p.add_argument("--noise", type=paths.path, metavar="FILE.npz", help="random draws to use instead of the seed's")
    p.add_argument("--save-latents", type=paths.path, metavar="FILE.npz", help="also write the sampler's final latents")
    return p


def parse(argv: list[str] | None) -> InterpolationRequest:
    """Parse and check the command line and read the keyframes, before the long work. Nothing is written."""
    return check_alone(parser().parse_args(argv))


def check_alone(args: argparse.Namespace) -> InterpolationRequest:
    """Join the other processes of one video, check parsed options, print notes, and read the keyframes; see `parse`."""
    check_arguments(args)
    memory_option.take_share(args.memory)
    options.connect(args)

    def find() -> tuple[InterpolationRequest, str | None]:
        source, note = sampling_options.find(args.model, args.method or "dual")
        return request_of(args, source), note

    request, model_note = agreed(find, lambda found: found[0].facts())
    for note in filter(None, [model_note, *request.notes]):
        say(note)
    return request


def check(args: argparse.Namespace, source: ModelSource, shape: tuple[int, ...], *, probe: bool = True) -> CheckedOptions:
    """Check options as far as that needs no pixels; nothing is printed or written.

    Args:
        args: options that passed `check_arguments`.
        source: the model that they are for.
        shape: (H, W, 3) of the first keyframe.
        probe: see `svdjax.media.output_plan.plan_output`.
    """
    method, settings, notes = method_options.choose_method(args, source)
    size = sampling_options.video_size(args, shape, source.config)
    scale = DEMO_SCALE if args.demo else 1
    output, sheet = plan_outputs(args, (size[0] * scale, size[1] * scale), probe)
    check_rate(args.rate, settings.num_frames, "--rate")
    rate = sampling_options.playback_rate(args, output.format, args.rate)
    noise = None if args.noise is None else load_noise(args, source, method, settings, size)
    metadata = metadata_of(args, source, method, settings, size, noise) | sampling_options.playback_metadata(args, rate)
    return CheckedOptions(
        method=method,
        settings=settings,
        size=size,
        output=output,
        sheet=sheet,
        rate=rate,
        noise=noise,
        metadata=metadata,
        notes=tuple(notes),
    )


def request_of(args: argparse.Namespace, source: ModelSource, *, with_mesh: bool = True) -> InterpolationRequest:
    """Check parsed options against the model that they are for, and read the keyframes; nothing is printed or written.

    Args:
        args: options that passed `check_arguments`.
        source: the model.
        with_mesh: whether to choose the devices. A batch chooses them once, for all its clips.
    """
    names, loaded, notes = demo_keyframes() if args.demo else (args.keyframes, *images.load_keyframes(args.keyframes))
    checked = check(args, source, loaded[0].shape)
    size = checked.size
    keyframes = [fit.fit(image, size, args.fit) for image in loaded]
    chain.check_chain(keyframes, checked.method, args.loop, args.keep_keyframes, names=("--loop", "--keep-keyframes"))
    fitted = [fit.describe_fit(Path(name).name, image.shape, size, args.fit) for name, image in zip(names, loaded, strict=True)]
    mesh = None
    if with_mesh:
        clips = len(keyframes) - (not args.loop)
        run = methods.run_of(checked.method, checked.settings, source.config.scheduler)
        shape = *size, checked.settings.num_frames
        mesh = planned_model.choose_mesh(args, source.config, [run], [shape], clips)
    return InterpolationRequest(
        model=source,
        backward=args.backward,
        keyframes=keyframes,
        settings=checked.settings,
        method=checked.method,
        output=checked.output,
        factor=args.rate,
        rate=checked.rate,
        decode_chunk=args.decode_chunk,
        dtype=compute_dtype(args.dtype),
        memory=memory_option.start(args.memory),
        kernels=args.kernels,
        noise=checked.noise,
        save_latents=args.save_latents,
        sheet=checked.sheet,
        scale=DEMO_SCALE if args.demo else 1,
        loop=args.loop,
        keep_keyframes=args.keep_keyframes,
        metadata=checked.metadata | {KEYFRAMES_HASH: hash_of(keyframes)},
        notes=tuple(filter(None, [*checked.notes, *notes, transfer_note(source, args.backward), *fitted])),
        mesh=mesh,
    )


def transfer_note(source: ModelSource, backward: Path | None) -> str | None:
    """See `ModelSource.transfer_note`; kept, because it may read all weights, and a process may check many videos."""
    key = source.folder, backward
    if key not in _transfer_notes:
        _transfer_notes[key] = source.transfer_note(backward)
    return _transfer_notes[key]


def check_arguments(args: argparse.Namespace) -> None:
    """Check options, as far as that needs no file."""
    if args.demo and (args.keyframes or args.model or args.backward):
        raise InputError("--demo has its own model and keyframes: leave out keyframes, --model and --backward")
    if not args.demo and len(args.keyframes) < 2:
        raise InputError(f"{len(args.keyframes)} keyframes given, expected at least two image files (or --demo)")
    if args.out == "":
        raise InputError("-o is empty, expected a file or a folder")
    sampling_options.check_decode_chunk(args)


def demo_keyframes() -> tuple[list[str], list[np.ndarray], list[str]]:
    """Names, keyframes and notes of the demo, as `load_keyframes` gives them: the ends of a clip not used in training."""
    clip = render(scene(*DEMO_SCENE))
    return ["first", "last"], [clip[0], clip[-1]], []


def plan_outputs(args: argparse.Namespace, size: tuple[int, int], probe: bool) -> tuple[output_plan.OutputPlan, Path | None]:
    """Check the output files, in process 0; return the plan of the video and the path of the contact sheet."""
    own = args.demo and args.out is None  # the demo's own files, which are replaced
    name = DEMO_OUT if own else args.out or DEFAULT_OUT
    own_sheet = own and args.sheet is None
    sheet = Path(DEMO_SHEET) if own_sheet else args.sheet
    if jax.distributed.is_initialized() and not cluster.is_main():  # a process alone doesn't start JAX here
        return output_plan.OutputPlan(Path(name).absolute(), output_plan.format_of(name)), sheet
    output = output_plan.plan_output(name, args.overwrite or own, size, probe=probe)
    if sheet is not None:
        check_new_file(sheet, "--sheet", (".png",), overwrite=args.overwrite or own_sheet)
    if args.save_latents is not None:
        check_new_file(args.save_latents, "--save-latents", (".npz",), overwrite=args.overwrite)
    files = {"--sheet": sheet, "--save-latents": args.save_latents}
    output_files.check_apart(output, files, [*args.keyframes, *([args.noise] if args.noise else [])])
    return output, sheet


def load_noise(
    args: argparse.Namespace, model: ModelSource, method: str, settings: Settings, size: tuple[int, int]
) -> draws.Draws:
    """The draws of `--noise`, checked against the settings; `size` is (width, height)."""
    width, height = size
    shape = generation.latent_shape(model.config, settings, (height, width))
    recurrences = methods.run_of(method, settings, model.config.scheduler).recurrences
    raised = frames_at_rate(settings.num_frames, args.rate) if args.rate > 1 else None
    return draws.load_draws(args.noise, (height, width, 3), shape, recurrences, raised)
