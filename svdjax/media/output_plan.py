"""Checks of a clip's output before the long work starts: name, format, folder, existing files, frame size and rate."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from svdjax.errors import InputError, one_line
from svdjax.media.frame_rate import frame_rate
from svdjax.media.video_formats import FOLDER, OUTPUT_FORMATS
from svdjax.runtime.output_paths import check_parent, check_writable

FRAME_NAME = re.compile(r"\d{4,}\.png")
LOWEST_FPS = Fraction(1, 100)  # 100 s a frame; a gif can store 655 s


@dataclass(frozen=True)
class OutputPlan:
    """A checked output, see `plan_output`.

    Attributes:
        path: absolute.
        format: a key of `OUTPUT_FORMATS`: `.mp4`, `.gif`, `.webp` or `folder`.
        overwrite: whether existing output at `path` may be replaced.
    """

    path: Path
    format: str
    overwrite: bool = False


def plan_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    size: tuple[int, int] | None = None,
    fps: Any = None,
    probe: bool = True,
) -> OutputPlan:
    """Check everything about an output that can be checked before the frames exist.

    Args:
        path: ends in .mp4, .gif or .webp (upper or lower case); without an ending, or with a trailing `/`, a folder of PNGs.
        overwrite: whether a file, or a folder of earlier frames, may be replaced. An empty folder always may.
        size: (width, height) of the frames, if known.
        fps: frames per second, if known; see `svdjax.media.frame_rate.frame_rate`.
        probe: whether to check that the folder can be written, by writing a small file there.

    Raises:
        InputError: an unknown ending; a missing or unwritable parent folder; an existing output without `overwrite`, or one
            that is never replaced (a device, or a folder with files other than frames 0000.png, 0001.png, ...); a size or
            frame rate outside the format's limits.
    """
    name = os.fspath(path)
    output_format = format_of(name)
    target = Path(os.path.abspath(name))
    check_parent(target, name)
    try:
        check_replaceable(name, target, output_format, overwrite)
    except PermissionError:
        raise InputError(f"{name}: no permission to write there") from None
    except OSError as e:  # such as a name that is too long
        raise InputError(f"{name}: can't be written ({e.strerror or e})") from None
    if probe:
        check_writable(target if output_format == FOLDER and target.exists() else target.parent, name)
    plan = OutputPlan(target, output_format, overwrite)
    if size is not None:
        check_frame_size(plan, *size)
    if fps is not None:
        check_fps(fps, output_format)
    return plan


def format_of(name: str) -> str:
    """The key of `OUTPUT_FORMATS` for a path.

    Raises:
        InputError: an empty or impossible name, or an unknown ending.
    """
    if not name:
        raise InputError("the output's name is empty")
    if "\0" in name:
        raise InputError(f"{name!r}: not a possible file name")
    if name.endswith(("/", os.sep)):
        return FOLDER
    base = os.path.basename(name)
    if base.lower() in OUTPUT_FORMATS:
        raise InputError(f"{name}: expected a name before {base}")
    ending = os.path.splitext(base)[1].lower()
    if not ending:
        return FOLDER
    if ending not in OUTPUT_FORMATS:
        raise InputError(f"{name}: unknown ending {ending}, expected .mp4, .gif, .webp, or none for a folder of PNGs")
    return ending


def check_replaceable(name: str, target: Path, output_format: str, overwrite: bool, temporary: str = "") -> None:
    """Refuse a target if writing to it would destroy anything that `overwrite` doesn't allow.

    Args:
        name: of the target in messages.
        target: absolute path.
        output_format: a key of `OUTPUT_FORMATS`.
        overwrite: whether earlier output may be replaced.
        temporary: name of an entry of the target folder to ignore.

    Raises:
        InputError: something exists there that may not be replaced.
    """
    try:
        target.lstat()
    except FileNotFoundError:
        return
    if target.is_symlink() and not target.exists():
        raise InputError(f"{name}: is a link to {os.readlink(target)}, which doesn't exist")
    if output_format != FOLDER:
        if target.is_dir():
            raise InputError(f"{name}: is a folder, expected a file (a trailing / writes PNGs into a folder)")
        if target.exists() and not target.is_file():
            raise InputError(f"{name}: is not a regular file")
    elif not target.is_dir():
        raise InputError(f"{name}: is a file, expected a folder of PNGs, because the name has no ending")
    else:
        entries = [entry for entry in os.scandir(target) if entry.name != temporary]
        if not entries:
            return
        foreign = sorted(e.name for e in entries if not (FRAME_NAME.fullmatch(e.name) and e.is_file()))
        if foreign:
            raise InputError(f"{name}: the folder holds other files than frames ({foreign[0]}), expected a new folder")
    if not overwrite:
        raise InputError(f"{name}: exists already (--overwrite replaces it)")


def check_fps(fps: Any, output_format: str = FOLDER, name: str = "fps") -> Fraction:
    """The exact frame rate; refuse one outside the format's limits.

    Args:
        fps: see `svdjax.media.frame_rate.frame_rate`.
        output_format: a key of `OUTPUT_FORMATS`.
        name: of the rate in messages.
    """
    rate, most = frame_rate(fps, name), OUTPUT_FORMATS[output_format].max_fps
    if not LOWEST_FPS <= rate <= most:
        suffix = "" if output_format == FOLDER else f" for a {output_format}"
        raise InputError(f"{name} is {one_line(fps, 40)}, expected a number from {float(LOWEST_FPS)} to {most}{suffix}")
    return rate


def check_frame_size(plan: OutputPlan, width: int, height: int) -> None:
    """Refuse a frame size that the plan's format can't store exactly."""
    limits = OUTPUT_FORMATS[plan.format]
    if max(width, height) > limits.max_side:
        raise InputError(f"{plan.path}: frames of {width}x{height}, but a side of {plan.format} is at most {limits.max_side}")
    if limits.even and (width % 2 or height % 2):
        raise InputError(f"{plan.path}: frames of {width}x{height}, but the sides of {plan.format} must be even")
