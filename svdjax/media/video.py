"""The output: checked before the long work starts, written beside its place after it, and moved there when it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svdjax.errors import InputError
from svdjax.media import video_formats


@dataclass(frozen=True)
class _Kind:
    write: Callable[[Path, np.ndarray, int, str], None]
    read: Callable[[Path], str | None]
    max_fps: int  # beyond it the format, or those who play it, can't tell frames apart
    max_side: int
    even: bool = False  # whether sides must be even


FOLDER = "folder"
KINDS = {
    ".mp4": _Kind(video_formats.write_mp4, video_formats.read_mp4, 1000, 16384, even=True),
    # Browsers show a gif's frames of less than 2/100 s for 10/100 s.
    ".gif": _Kind(video_formats.write_gif, video_formats.read_gif, 50, 65535),
    ".webp": _Kind(video_formats.write_webp, video_formats.read_webp, 1000, 16383),
    FOLDER: _Kind(video_formats.write_pngs, video_formats.read_pngs, 1000, 2**31 - 1),
}
_FRAME_NAME = re.compile(r"\d{4,}\.png")


@dataclass(frozen=True)
class OutputPlan:
    """Where a clip goes, checked by `plan_output`.

    Attributes:
        path: absolute.
        kind: a key of `KINDS`: `.mp4`, `.gif`, `.webp` or `folder`.
        overwrite: whether something at `path` may be replaced.
    """

    path: Path
    kind: str
    overwrite: bool = False


def plan_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    size: tuple[int, int] | None = None,
    fps: int | None = None,
) -> OutputPlan:
    """Check all that can be checked about an output before the work that it is for.

    Args:
        path: ends in .mp4, .gif or .webp (any case); without an ending, or with a trailing `/`, it is a folder of PNGs.
        overwrite: whether a file, or a folder of earlier frames, may be replaced. An empty folder always may.
        size: the frames' (width, height), where known.
        fps: the frame rate, where known.

    Raises:
        InputError: an unknown ending; a missing or unwritable parent folder; an existing output that may not be replaced,
            or may never be (a folder that holds anything but frames named 0000.png and so on, a device); a size or frame
            rate that the format can't hold.
    """
    name = os.fspath(path)
    kind = _kind_of(name)
    target = Path(os.path.abspath(name))
    try:
        _check_parent(name, target.parent)
        _check_target(name, target, kind, overwrite)
        # Tried rather than asked: mode bits don't tell about read-only disks, quotas and access lists.
        with tempfile.TemporaryFile(dir=target if kind == FOLDER and target.exists() else target.parent):
            pass
    except PermissionError:
        raise InputError(f"{name}: no permission to write there") from None
    except OSError as e:  # a name too long, a disk that is read-only or full
        raise InputError(f"{name}: can't be written ({e.strerror or e})") from None
    plan = OutputPlan(target, kind, overwrite)
    if size is not None:
        check_frame_size(plan, *size)
    if fps is not None:
        check_fps(fps, kind)
    return plan


def check_fps(fps: int, kind: str = FOLDER) -> None:
    """Refuse a frame rate that isn't a whole number from 1 to what `kind` (a key of `KINDS`) can show."""
    most = KINDS[kind].max_fps
    if isinstance(fps, bool) or not isinstance(fps, (int, np.integer)) or not 1 <= fps <= most:
        what = "" if kind == FOLDER else f" for a {kind}"
        raise InputError(f"fps is {fps!r}, expected a whole number from 1 to {most}{what}")


def check_frame_size(plan: OutputPlan, width: int, height: int) -> None:
    """Refuse frames whose sides the plan's format can't hold exactly."""
    kind = KINDS[plan.kind]
    if max(width, height) > kind.max_side:
        raise InputError(f"{plan.path}: frames of {width}x{height}, but a side of {plan.kind} is at most {kind.max_side}")
    if kind.even and (width % 2 or height % 2):
        raise InputError(f"{plan.path}: frames of {width}x{height}, but the sides of {plan.kind} must be even")


def write_video(plan: OutputPlan, frames: np.ndarray, fps: int, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a clip; on any failure, an interrupt included, nothing is left behind and what was there before stays.

    Args:
        plan: from `plan_output`.
        frames: uint8 (f, H, W, 3); every frame is written, at its own size, and the clip lasts f / fps seconds.
        fps: whole frames a second (a folder of PNGs doesn't keep it).
        metadata: kept as JSON in the file: mp4's and gif's comment, webp's EXIF image description, each PNG's Comment.
            `read_metadata` gives it back.

    Returns:
        The path written.

    Raises:
        ValueError: frames of another dtype or shape.
        InputError: fps or size that the format can't hold; or the disk refused (full, gone, or something new at the path).
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 (f, H, W, 3)")
    check_fps(fps, plan.kind)
    check_frame_size(plan, frames.shape[2], frames.shape[1])
    comment = json.dumps(dict(metadata or {}))
    with _moved_into_place(plan) as temporary:
        KINDS[plan.kind].write(temporary, frames, int(fps), comment)
    return plan.path


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata that `write_video` was given; of a folder, from its first frame. Empty for files without any."""
    name = os.fspath(path)
    text = KINDS[_kind_of(name)].read(Path(name))
    try:
        return json.loads(text) if text else {}
    except ValueError:  # another program's comment
        return {}


def _kind_of(name: str) -> str:
    if not name:
        raise InputError("the output's name is empty")
    if "\0" in name:
        raise InputError(f"{name!r}: no file can have this name")
    if name.endswith(("/", os.sep)):
        return FOLDER
    base = os.path.basename(name)
    if base.lower() in KINDS:
        raise InputError(f"{name}: expected a name before {base}")
    ending = os.path.splitext(base)[1].lower()
    if not ending:
        return FOLDER
    if ending not in KINDS:
        raise InputError(f"{name}: unknown ending {ending}, expected .mp4, .gif, .webp, or none for a folder of PNGs")
    return ending


def _check_parent(name: str, parent: Path) -> None:
    if not parent.exists():
        raise InputError(f"{name}: the folder {parent} doesn't exist")
    if not parent.is_dir():
        raise InputError(f"{name}: {parent} is a file, expected a folder")


def _check_target(name: str, target: Path, kind: str, overwrite: bool, ours: str = "") -> None:
    """Raise unless writing to `target` destroys nothing, or only what `overwrite` allows. `ours`: an entry to pass over."""
    try:
        target.lstat()
    except FileNotFoundError:
        return
    if kind != FOLDER:
        if target.is_dir():
            raise InputError(f"{name}: is a folder, expected a file (a trailing / writes PNGs into a folder)")
        if target.exists() and not target.is_file():
            raise InputError(f"{name}: is not a regular file")
    elif not target.is_dir():
        raise InputError(f"{name}: is a file, and without an ending the output is a folder of PNGs")
    else:
        entries = [entry for entry in os.scandir(target) if entry.name != ours]
        if not entries:
            return
        foreign = sorted(e.name for e in entries if not (_FRAME_NAME.fullmatch(e.name) and e.is_file()))
        if foreign:
            raise InputError(f"{name}: the folder holds something else than frames ({foreign[0]}), expected a new folder")
    if not overwrite:
        raise InputError(f"{name}: already exists (--overwrite replaces it)")


@contextlib.contextmanager
def _moved_into_place(plan: OutputPlan) -> Iterator[Path]:
    """A fresh path on the target's disk to write to; moved to the target at the end, removed on any failure.

    Of a folder that is there already only the frames are exchanged: it may be a mount, a link, or the working folder.
    """
    inside = plan.kind == FOLDER and plan.path.is_dir()
    home, suffix = (plan.path, "") if inside else (plan.path.parent, "" if plan.kind == FOLDER else plan.kind)
    # Not tempfile's names: what those make is readable by its owner alone, and would stay so.
    new = home / f".svdjax-{secrets.token_hex(4)}{suffix}"
    try:
        yield new
        _check_target(str(plan.path), plan.path, plan.kind, plan.overwrite, ours=new.name)  # much time has passed
        if inside:
            _exchange_frames(plan.path, new)
        else:
            new.replace(plan.path)
    except BaseException as e:
        _remove(new)
        if isinstance(e, OSError):
            raise InputError(f"{plan.path}: can't be written ({e.strerror or e})") from e
        raise


def _exchange_frames(folder: Path, new: Path) -> None:
    """Move the files of `new`, a folder inside `folder`, up into `folder` in place of the frames there; remove `new`."""
    before = [n for n in os.listdir(folder) if _FRAME_NAME.fullmatch(n)]
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
