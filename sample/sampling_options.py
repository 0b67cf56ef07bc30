"""Options shared by the sampling commands, and their checks before a model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from svdjax.config import SVDConfig
from svdjax.embedded_model import DEFAULTS as EMBEDDED_DEFAULTS
from svdjax.errors import InputError
from svdjax.kernels import choice as kernels
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.media.output_plan import check_fps
from svdjax.model_sources import ModelSource
from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import DTYPES
from svdjax.sampling.edm import SCHEDULES
from svdjax.sampling.methods import Method, settings_of
from svdjax.sampling.settings import FUSIONS, Settings

MODEL_HELP = "a checkpoint, a diffusers folder, one file (svd_xt.safetensors), a name on the Hugging Face hub, or: embedded"


def add_model(p: cli.Parser) -> None:
    """Add `--model`, which `find` reads."""
    p.add_argument("--model", type=paths.path_text, metavar="DIR", help=f"{MODEL_HELP} (default: embedded, a toy model)")


def add_sampling(p: cli.Parser, *, steps: int | None = None, evaluation: bool = False) -> None:
    """Add the options of one clip. `sampling_settings` looks up the values of options that are left out.

    Args:
        p: the parser.
        steps: see `add_steps`.
        evaluation: whether the command is `sample.evaluate`: it writes no video, and decodes all frames together.
    """
    oriented = "" if evaluation else ", oriented like the first keyframe"
    used = "" if evaluation else "; also that of the file, without --playback-fps"
    p.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip, keyframes included (default: the model's)")
    p.add_argument("--size", metavar="WxH", help=f"size of the video (default: the model's{oriented})")
    default_fit = None if evaluation else "crop"  # None: a manifest may have another
    p.add_argument("--fit", choices=fit.FITS, default=default_fit, help="how to fit images of another shape (default: crop)")
    add_steps(p, steps)
    p.add_argument("--seed", type=int, default=Settings.seed, help="seed of all random draws (default: %(default)s)")
    p.add_argument("--fps", type=int, default=Settings.fps, help=f"frame rate given to the model{used} (default: %(default)s)")
    p.add_argument(
        "--motion-bucket-id",
        type=float,
        default=Settings.motion_bucket_id,
        help="amount of motion, 0 to 255 (default: %(default)s)",
    )
    p.add_argument(
        "--noise-aug-strength",
        type=float,
        default=Settings.noise_aug_strength,
        help="noise on the keyframes; with more noise, the video may differ more from them (default: %(default)s)",
    )
    p.add_argument(
        "--guidance",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="smallest and largest guidance scale (default: 1 3, or the method's)",
    )
    p.add_argument(
        "--guidance-steps",
        type=int,
        nargs=2,
        metavar=("A", "B"),
        help="guidance only in steps A to B - 1, counted from 0; the others take half the time (default: in all)",
    )
    p.add_argument(
        "--schedule",
        choices=tuple(SCHEDULES),
        help="noise levels: edm; ays: Align Your Steps, for about 10 steps; lcm: for weights such as AnimateLCM's, 8 steps "
        f"without guidance (default: {Settings.schedule})",
    )
    p.add_argument(
        "--deep-every",
        type=int,
        metavar="N",
        help="run the UNet's deep layers in every Nth step and reuse their features between: faster, but the frames change "
        "(default: 1)",
    )
    p.add_argument(
        "--decode-chunk",
        type=int,
        metavar="N",
        help=argparse.SUPPRESS if evaluation else "decode N frames at a time: less memory, but they change (default: all)",
    )
    memory_option.add_memory(p)
    p.add_argument(
        "--mesh",
        metavar="AXES",
        help="devices, such as guidance=2,columns=4: data divides pairs, guidance the predictions without and with "
        "conditioning, rows and columns every frame, fsdp the weights' storage; -1: the remaining devices "
        "(default: all of this host, divided as is fastest)",
    )
    kernels.add_kernels(p)
    p.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: bfloat16; float32 on a CPU)")


def add_steps(p: cli.Parser, steps: int | None = None) -> None:
    """Add `--steps`; `steps` is the default in its help, None that of `Settings`."""
    p.add_argument("--steps", type=int, help=f"steps (default: {steps or _by_model('steps')}, or the method's)")


def add_playback(p: cli.Parser) -> None:
    """Add `--playback-fps`, which `playback_rate` reads."""
    p.add_argument(
        "--playback-fps",
        metavar="RATE",
        help="frame rate of the file, such as 24, 23.976 or 24000/1001; it doesn't change the frames (default: that of --fps)",
    )


def playback_rate(args: argparse.Namespace, output_format: str, factor: int = 1) -> Fraction:
    """The exact frame rate of the file.

    Args:
        args: with the options of `add_sampling` and `add_playback`.
        output_format: a key of `OUTPUT_FORMATS`.
        factor: of the frame rate of `--fps`.

    Raises:
        InputError: not a rate, or one that the format can't store.
    """
    if args.playback_fps is None:
        return check_fps(args.fps * factor, output_format, "fps" if factor == 1 else "--fps times --rate")
    return check_fps(args.playback_fps, output_format, "--playback-fps")


def playback_metadata(args: argparse.Namespace, rate: Fraction) -> dict[str, str]:
    """Metadata of `--playback-fps`, if it was given."""
    return {} if args.playback_fps is None else {"playback_fps": str(rate)}


def add_recurrence(p: cli.Parser) -> None:
    """Add the options for sampling in both directions."""
    p.add_argument(
        "--fusion", choices=FUSIONS, help=f"fusion of the directions (default: {_by_model('fusion')}, or the method's)"
    )
    p.add_argument(
        "--recurrence",
        type=int,
        metavar="N",
        help=f"repetitions of each early step (default: {_by_model('recurrence')}, or the method's)",
    )
    p.add_argument(
        "--recurrence-ratio",
        type=float,
        help=f"fraction of the steps, from the first, that are repeated (default: {Settings.recurrence_ratio})",
    )


def _by_model(name: str) -> str:
    return f"{getattr(Settings, name)}; {EMBEDDED_DEFAULTS[name]} with the embedded model"


def find(model: str | None, method: str = "dual") -> tuple[ModelSource, str | None]:
    """Find the model of `--model`; also return a note for the user: what was found, or that the option was left out.

    Args:
        model: value of `--model`; None is the embedded model.
        method: see `svdjax.loading.find_model`.

    Raises:
        InputError: see `svdjax.loading.find_model`.
    """
    source = find_model(model, method)
    if model is not None:
        return source, "\n".join(source.notes) or None
    width, height = source.config.default_size
    return source, (
        f"no --model: the embedded toy model is used ({source.config.unet.num_frames} frames of {width}x{height}, trained on "
        "darts, cars and fish). It shows the method; for real videos give the weights of Stable Video Diffusion, such as "
        "--model svd_xt.safetensors (see README)"
    )


def check_decode_chunk(args: argparse.Namespace) -> None:
    """Raise `InputError` if `--decode-chunk` is below 1."""
    if args.decode_chunk is not None and args.decode_chunk < 1:
        raise InputError(f"--decode-chunk is {args.decode_chunk}, expected at least 1")


def given_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Settings` from the options that are given or have a default of their own."""
    names = (field.name for field in dataclasses.fields(Settings))
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def sampling_settings(
    args: argparse.Namespace,
    model: ModelSource,
    *,
    method: str | Method = "dual",
    defaults: Mapping[str, Any] | None = None,
    **others: Any,
) -> Settings:
    """The settings of a method: the given options, then the values of the method, the model and `Settings`, in this order.

    Args:
        args: with the options of `add_sampling`, `add_recurrence` and `method_options.add_prefix`, or some of them.
        model: the model.
        method: a key of `methods.METHODS`, or a `Method`. For a name such as `mpd+vibid`, `methods.parse_name` gives the method
            and the fields to pass as `others`.
        defaults: defaults to use instead of the model's own.
        others: further fields of `Settings`; they win over the options.

    Raises:
        InputError: a value out of its range, or options that the method can't have.
    """
    own = {"num_frames": model.config.unet.num_frames, **(model.defaults if defaults is None else defaults)}
    return settings_of(method, given_fields(args) | others, own)


def video_size(args: argparse.Namespace, shape: tuple[int, ...], config: SVDConfig) -> tuple[int, int]:
    """(width, height) of a video in pixels; `shape` is (H, W, 3) of its first image."""
    size = fit.parse_size(args.size) if args.size else fit.default_size(shape, config.default_size)
    fit.check_size(*size, config.size_multiple)
    return size
