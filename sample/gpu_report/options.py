"""Options of `sample.benchmark --gpu-report`, checked before the work."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sample.benchmarking.workloads import PRESETS
from sample.gpu_report.parts import PARTS
from sample.planning.compiling import start_without_gpu
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.runtime import paths
from svdjax.runtime.output_paths import check_new_files_in

NAMES = tuple(part.name for part in PARTS)
FILES = ("report.json", "report.md", "log.txt", "clip.mp4")
MINUTES = 25.0
CPU_SIZE, CPU_FRAMES = (64, 64), 4  # for the small preset, so that a CPU measures all parts in minutes
# Other options of the benchmark that may be combined with `--gpu-report`: they choose the model and the clip.
_ALLOWED = {"gpu_report", "time_limit", "parts", "preset", "model", "size", "num_frames", "dtype", "repeats"}


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """A checked command line.

    Attributes:
        folder: for the report; it exists or can be made.
        minutes: time limit.
        model: a preset or the value of `--model`; None: svd-xt on a GPU, else small.
        size: (width, height) in pixels; None for the model's, with the small preset on a CPU a smaller one.
        num_frames: None likewise.
        dtype: None: bfloat16 on a GPU, else float32.
        repeats: timed runs of a step.
        parts: names of parts, in the order in which they run; None for all.
    """

    folder: Path
    minutes: float
    model: str | None
    size: tuple[int, int] | None
    num_frames: int | None
    dtype: str | None
    repeats: int
    parts: tuple[str, ...] | None = None


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = p.add_argument_group("a report on the local device")
    group.add_argument(
        "--gpu-report",
        type=paths.path,
        metavar="DIR",
        help="measure everything: parity, times against PyTorch's (extra test), memory, kernels, a whole clip; writes "
        "report.json, report.md, log.txt and clip.mp4 to DIR and replaces old ones",
    )
    group.add_argument(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help=f"end the report after this time with the results so far (default: {MINUTES:g})",
    )
    group.add_argument(
        "--parts",
        metavar="NAME,...",
        help=f"measure only these, in this order, some of {', '.join(NAMES)} (default: all)",
    )


def check(args: argparse.Namespace, p: argparse.ArgumentParser) -> ReportOptions | None:
    """The checked options; None without `--gpu-report`.

    Args:
        args: the parsed command line.
        p: its parser.

    Raises:
        InputError: a user error.
    """
    if args.gpu_report is None:
        for name in ("time_limit", "parts"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} applies only to a report: expected --gpu-report too")
        return None
    _refuse_others(args, p)
    minutes = MINUTES if args.time_limit is None else args.time_limit
    if not (math.isfinite(minutes) and minutes > 0):
        raise InputError(f"--time-limit is {minutes:g}, expected a number of minutes above 0")
    if args.model is not None and args.preset:
        raise InputError("--model and --preset both give the shapes of the model: expected only one of them")
    if args.repeats < 1:
        raise InputError(f"--repeats is {args.repeats}, expected at least 1")
    if args.num_frames is not None and args.num_frames < 2:
        raise InputError(f"--num-frames is {args.num_frames}, expected at least 2")
    parts = None if args.parts is None else _parts(args.parts)
    size = fit.parse_size(args.size) if args.size else None
    model = args.model or args.preset
    start_without_gpu()  # the report's process reads configurations only; its parts use the device
    if size is not None:
        config = find_model(model).config if args.model is not None else PRESETS[model or "svd-xt"]
        fit.check_size(*size, config.size_multiple)
    check_new_files_in(args.gpu_report, f"--gpu-report {args.gpu_report}", FILES)
    return ReportOptions(
        folder=args.gpu_report,
        minutes=minutes,
        model=model,
        size=size,
        num_frames=args.num_frames,
        dtype=args.dtype,
        repeats=args.repeats,
        parts=parts,
    )


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    wrong = next((name for name in names if name not in NAMES or names.count(name) > 1), None)
    if wrong is not None:
        raise InputError(f"--parts has {wrong!r}, expected some of {', '.join(NAMES)}, each once")
    return names


def resolve(options: ReportOptions, gpu: bool) -> dict[str, Any]:
    """The fields of `channel.Request` that depend on the device."""
    model = options.model or ("svd-xt" if gpu else "small")
    config = PRESETS[model] if model in PRESETS else find_model(model).config
    scaled_down = not gpu and options.model is None
    return {
        "config": config,
        "model": model,
        "size": options.size or (CPU_SIZE if scaled_down else config.default_size),
        "num_frames": options.num_frames or (CPU_FRAMES if scaled_down else config.unet.num_frames),
        "dtype": options.dtype or ("bfloat16" if gpu else "float32"),
    }


def _refuse_others(args: argparse.Namespace, p: argparse.ArgumentParser) -> None:
    for action in p._actions:
        given = getattr(args, action.dest, action.default) != action.default
        if given and action.dest not in _ALLOWED:
            raise InputError(f"{action.option_strings[-1]} doesn't apply to --gpu-report: expected only one of them")
