"""What the sampling commands share: their options, and what is checked of them before a model is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from svdjax import embedded_model
from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.media import fit
from svdjax.runtime import cli
from svdjax.sampling.settings import FUSIONS, Settings


def add_model(p: cli.Parser) -> None:
    """`--model`, which `find_model` or the command itself fills in where it is left out."""
    p.add_argument(
        "--model", type=Path, metavar="DIR", help="a checkpoint made by python -m convert.svd_to_flax (the embedded toy model)"
    )


def add_sampling(p: cli.Parser, *, steps: int | None = None) -> None:
    """The options of one clip; defaults are those of `Settings`, but for `steps`, which None leaves to the model."""
    p.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip, keyframes included (the model's)")
    p.add_argument("--size", metavar="WxH", help="size of the video (the model's, turned to the keyframe's orientation)")
    p.add_argument("--fit", choices=fit.FITS, default="crop", help="how images of another shape are fitted (%(default)s)")
    add_steps(p, steps)
    p.add_argument("--seed", type=int, default=Settings.seed, help="seed of every random draw (%(default)s)")
    p.add_argument("--fps", type=int, default=Settings.fps, help="told to the model and written to the file (%(default)s)")
    p.add_argument(
        "--motion-bucket-id", type=float, default=Settings.motion_bucket_id, help="how much motion, 0 to 255 (%(default)s)"
    )
    p.add_argument(
        "--noise-aug-strength",
        type=float,
        default=Settings.noise_aug_strength,
        help="noise on the keyframes; more lets the video leave them further (%(default)s)",
    )
    p.add_argument(
        "--guidance", type=float, nargs=2, metavar=("MIN", "MAX"), default=Settings.guidance, help="guidance scales (1 3)"
    )
    p.add_argument(
        "--decode-chunk",
        type=int,
        metavar="N",
        help="decode N frames at a time: less memory, but it changes the picture (all frames, exactly)",
    )
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="compute dtype (bfloat16; float32 where there is no GPU)"
    )


def add_steps(p: cli.Parser, steps: int | None = None) -> None:
    """`--steps` with a default, or None, for which `asked` has the model's."""
    p.add_argument("--steps", type=int, default=steps, help=f"Euler steps ({steps or _by_model('steps')})")


def add_recurrence(p: cli.Parser) -> None:
    """The options of both directions together."""
    p.add_argument("--fusion", choices=FUSIONS, default=Settings.fusion, help="how the directions are fused (%(default)s)")
    p.add_argument("--recurrence", type=int, metavar="N", help=f"redo each early step so often ({_by_model('recurrence')})")
    p.add_argument(
        "--recurrence-ratio", type=float, default=Settings.recurrence_ratio, help="share of the steps redone (%(default)s)"
    )


def recurrence_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Settings` that the options of `add_recurrence` ask for."""
    return {"fusion": args.fusion, "recurrence": asked(args, "recurrence"), "recurrence_ratio": args.recurrence_ratio}


def asked(args: argparse.Namespace, name: str) -> int:
    """`steps` or `recurrence`: as given, or the default, which is the embedded model's own where no other model is named."""
    value = getattr(args, name)
    if value is not None:
        return value
    model = getattr(args, "model", None)
    return embedded_model.SETTINGS[name] if model is None or embedded_model.is_embedded(model) else getattr(Settings, name)


def _by_model(name: str) -> str:
    return f"{getattr(Settings, name)}; {embedded_model.SETTINGS[name]} with the embedded model"


def find_model(args: argparse.Namespace, method: str = "dual") -> tuple[checkpoint.Info, str | None]:
    """What the checkpoint of `--model` says of itself, and a note; without the option it becomes the embedded model's.

    Args:
        args: of `add_model`; `args.model` is set.
        method: a key of `svdjax.sampling.methods.METHODS`, whose backward weights an embedded model shall have.
    """
    if args.model is not None:
        return checkpoint.read_info(args.model), None
    args.model = embedded_model.checkpoint(method)
    info = checkpoint.read_info(args.model)
    width, height = info.config.default_size
    return info, (
        f"no --model: this is the embedded toy model ({info.config.unet.num_frames} frames of {width}x{height}, trained on "
        "darts, cars and fish). It shows the method; for real videos convert Stable Video Diffusion: "
        "python -m convert.svd_to_flax SOURCE svd-xt (see README), then --model svd-xt"
    )


def model_name(path: Path) -> str:
    """What a video's metadata call a model."""
    return embedded_model.NAME if embedded_model.is_embedded(path) else path.name


def check_decode_chunk(args: argparse.Namespace) -> None:
    """`InputError` if `--decode-chunk` is below 1."""
    if args.decode_chunk is not None and args.decode_chunk < 1:
        raise InputError(f"--decode-chunk is {args.decode_chunk}, expected at least 1")


def sampling_settings(args: argparse.Namespace, config: SVDConfig, **more: Any) -> Settings:
    """The settings that the options of `add_sampling` ask for; `more` are further fields of `Settings`."""
    given = {
        "num_frames": config.unet.num_frames if args.num_frames is None else args.num_frames,
        "steps": asked(args, "steps"),
        "seed": args.seed,
        "fps": args.fps,
        "motion_bucket_id": args.motion_bucket_id,
        "noise_aug_strength": args.noise_aug_strength,
        "guidance": tuple(args.guidance),
    }
    return Settings(**(given | more))


def video_size(args: argparse.Namespace, shape: tuple[int, ...], config: SVDConfig) -> tuple[int, int]:
    """(width, height) of the video that begins with an image of `shape`, (H, W, 3)."""
    size = fit.parse_size(args.size) if args.size else fit.default_size(shape, config.default_size)
    fit.check_size(*size, config.size_multiple)
    return size
