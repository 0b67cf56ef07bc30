"""Clips of an evaluation as folders of PNG files; a folder is complete or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.video_formats import write_png_frames
from svdjax.runtime.atomic import new_folder

Shape = tuple[int, int, int]  # frames, height, width

TRUTH = "truth"  # the folder of the true clips, next to the folders of the methods
_NOTE = "note.txt"


def write(folder: Path, frames: np.ndarray, note: str = "") -> None:
    """Write frames, uint8 (f, H, W, 3), as `0000.png`, `0001.png`, ..., and a note; an existing folder is kept.

    Raises:
        InputError: the folder can't be written.
    """
    if folder.is_dir():
        return
    try:
        with new_folder(folder, ours=lambda old: False) as temporary:
            write_png_frames(temporary, frames)
            if note:
                (temporary / _NOTE).write_text(note)
    except OSError as e:
        raise InputError(f"{folder}: can't be written: {e.strerror}; run the same command again to continue") from None


def note(folder: Path) -> str:
    """The note of a clip; empty if it has none."""
    file = folder / _NOTE
    return file.read_text() if file.is_file() else ""


def check_clip_folder(folder: Path, count: int) -> None:
    """Refuse an existing folder unless its PNG files are exactly the `count` expected ones. No image is opened.

    Raises:
        InputError: a PNG file is missing or unexpected, or `folder` is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a clip's folder; remove it and run again")
    expected = {_name(i) for i in range(count)}
    existing = {path.name for path in folder.glob("*.png")}
    for name in sorted(expected ^ existing):
        state = "has" if name in existing else "lacks"
        raise InputError(f"{folder}: {state} {name}, expected {_name(0)} to {_name(count - 1)}; remove it and run again")


def read(folder: Path, shape: Shape) -> np.ndarray:
    """Read all frames of a clip, uint8 (f, H, W, 3).

    Args:
        folder: the clip's folder.
        shape: expected number of frames, height and width.

    Raises:
        InputError: the frames can't be read, or have another number or size.
    """
    return _read(folder, shape, range(shape[0]))


def read_keyframes(folder: Path, shape: Shape) -> np.ndarray:
    """Read only the first and the last frame, (2, H, W, 3); see `read`."""
    return _read(folder, shape, (0, shape[0] - 1))


def _read(folder: Path, shape: Shape, indices: Sequence[int]) -> np.ndarray:
    count, height, width = shape
    check_clip_folder(folder, count)
    frames = []
    for path in (folder / _name(i) for i in indices):
        try:
            with Image.open(path) as image:
                frames.append(np.asarray(image.convert("RGB")))
        except Exception as e:  # Pillow's readers raise nearly any kind of exception on damaged data
            raise InputError(f"{path}: can't be read ({e}); remove {folder} and run again") from None
        if frames[-1].shape[:2] != (height, width):
            size = "x".join(map(str, frames[-1].shape[1::-1]))
            raise InputError(f"{path}: is {size}, expected {width}x{height}; remove {folder} and run again")
    return np.stack(frames)


def _name(index: int) -> str:
    return f"{index:04d}.png"
