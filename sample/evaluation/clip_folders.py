"""Clips of an evaluation as folders of PNGs, each whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_folder

Shape = tuple[int, int, int]  # frames, height, width

TRUTH = "truth"  # the folder of the true clips, beside those of the methods


def write(folder: Path, frames: np.ndarray) -> None:
    """Frames uint8 (f, H, W, 3) as `0000.png`, `0001.png`, ...; a folder that is there stays.

    Raises:
        InputError: it can't be written.
    """
    if folder.is_dir():
        return
    try:
        with new_folder(folder, ours=lambda old: False) as temporary:
            for i, frame in enumerate(frames):
                Image.fromarray(frame).save(temporary / _name(i))
    except OSError as e:
        raise InputError(f"{folder}: can't be written ({e.strerror}); the same command goes on from here") from None


def check(folder: Path, count: int) -> None:
    """Refuse a folder, if there is one, that doesn't hold `count` frames by their names; no picture is opened.

    Raises:
        InputError: it lacks one or has another, or is no folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a clip's folder; remove it and run again")
    names = {_name(i) for i in range(count)}
    found = {path.name for path in folder.glob("*.png")}
    for name in sorted(names ^ found):
        said = "has" if name in found else "lacks"
        raise InputError(f"{folder}: {said} {name}, expected {_name(0)} to {_name(count - 1)}; remove it and run again")


def read(folder: Path, shape: Shape) -> np.ndarray:
    """All frames, uint8 (f, H, W, 3).

    Args:
        folder: of one clip.
        shape: how many frames there are, of which height and width.

    Raises:
        InputError: they can't be read, or are others.
    """
    return _read(folder, shape, range(shape[0]))


def read_ends(folder: Path, shape: Shape) -> np.ndarray:
    """The first and the last frame, (2, H, W, 3); the rest as of `read`, other frames than these unread."""
    return _read(folder, shape, (0, shape[0] - 1))


def _read(folder: Path, shape: Shape, numbers: Sequence[int]) -> np.ndarray:
    count, height, width = shape
    check(folder, count)
    frames = []
    for path in (folder / _name(i) for i in numbers):
        try:
            frames.append(np.asarray(Image.open(path).convert("RGB")))
        except (OSError, ValueError) as e:
            raise InputError(f"{path}: can't be read ({e}); remove {folder} and run again") from None
        if frames[-1].shape[:2] != (height, width):
            size = "x".join(map(str, frames[-1].shape[1::-1]))
            raise InputError(f"{path}: is {size}, expected {width}x{height}; remove {folder} and run again")
    return np.stack(frames)


def _name(number: int) -> str:
    return f"{number:04d}.png"
