"""Writing of a clip: to a temporary path first, then moved into place. Metadata of written clips."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from svdjax.errors import InputError, encodable, one_line
from svdjax.media.output_plan import FRAME_NAME, OutputPlan, check_fps, check_frame_size, check_replaceable, format_of
from svdjax.media.video_formats import FOLDER, OUTPUT_FORMATS
from svdjax.scalars import plain


def write_video(plan: OutputPlan, frames: np.ndarray, fps: Any, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a clip. After any failure or interrupt no partial output remains and earlier output is unchanged.

    Args:
        plan: see `svdjax.media.output_plan.plan_output`.
        frames: uint8 (f, H, W, 3). Every frame is written without resizing; the clip lasts f / fps seconds.
        fps: frames per second, a number or a text such as `24000/1001` (`svdjax.media.frame_rate.frame_rate`); not stored in a
            folder of PNGs.
        metadata: stored as JSON in the file, values as text: comment of an mp4 or gif, EXIF image description of a webp,
            Comment of each PNG. `read_metadata` returns it.

    Returns:
        The path written.

    Raises:
        InputError: frames of another dtype or shape; fps or size outside the format's limits; a write error such as a full
            disk; or output that has appeared at the path since it was planned.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (f, H, W, 3)")
    rate = check_fps(fps, plan.format)
    check_frame_size(plan, frames.shape[2], frames.shape[1])
    comment = as_comment(metadata or {})
    with moved_into_place(plan) as temporary:
        OUTPUT_FORMATS[plan.format].write(temporary, frames, rate, comment)
    return plan.path


def as_comment(metadata: Mapping[str, Any]) -> str:
    """The text that `read_metadata` reads."""
    return json.dumps({str(key): encodable(str(plain(value))) for key, value in metadata.items()})


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a clip from `write_video` (for a folder, of its first frame). Empty for other files.

    Raises:
        InputError: the file can't be read, or is damaged.
    """
    name = os.fspath(path)
    try:
        text = OUTPUT_FORMATS[format_of(name)].read_metadata(Path(name))
    except InputError:
        raise
    except Exception as e:  # decoders raise nearly any kind of exception on damaged data
        raise InputError(f"{name}: its metadata can't be read ({type(e).__name__}: {one_line(e, 200)})") from None
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):  # a comment of another program
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def moved_into_place(plan: OutputPlan) -> Iterator[Path]:
    """A new path on the target's disk to write to; moved to the target at the end, removed after any failure.

    In an existing folder only the frames are replaced: the folder may be a mount, a link, or the working folder.
    """
    inside = plan.format == FOLDER and plan.path.is_dir()
    parent, suffix = (plan.path, "") if inside else (plan.path.parent, "" if plan.format == FOLDER else plan.format)
    # Not made with tempfile: only the owner could read its files.
    new = parent / f".svdjax-{secrets.token_hex(4)}{suffix}"
    try:
        yield new
        # checked again, because much time has passed
        check_replaceable(str(plan.path), plan.path, plan.format, plan.overwrite, temporary=new.name)
        if inside:
            _exchange_frames(plan.path, new)
        else:
            new.replace(plan.path)
    except BaseException as e:
        _remove(new)
        if isinstance(e, OSError):
            raise InputError(f"{plan.path}: can't be written: {e.strerror or e}") from e
        raise


def _exchange_frames(folder: Path, new: Path) -> None:
    """Replace the frames in `folder` by the files of its sub-folder `new`, or restore them after a failure; remove `new`."""
    before = [n for n in os.listdir(folder) if FRAME_NAME.fullmatch(n)]
    after = os.listdir(new)
    old = new / "old"
    old.mkdir()
    try:
        for n in before:
            (folder / n).rename(old / n)
        for n in after:
            (new / n).rename(folder / n)
    except BaseException:
        for n in after:
            if not (new / n).exists():
                (folder / n).unlink(missing_ok=True)
        for n in os.listdir(old):
            (old / n).rename(folder / n)
        raise
    shutil.rmtree(new)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
