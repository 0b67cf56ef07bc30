"""Clips of an evaluation as folders of PNGs, each whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from svdjax.atomic import new_folder
from svdjax.errors import InputError

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
                Image.fromarray(frame).save(temporary / f"{i:04d}.png")
    except OSError as e:
        raise InputError(f"{folder}: can't be written ({e.strerror}); the same command goes on from here") from None


def read(folder: Path) -> np.ndarray:
    """All frames, uint8 (f, H, W, 3).

    Raises:
        InputError: they can't be read.
    """
    return _read(folder, sorted(folder.glob("*.png")))


def read_ends(folder: Path) -> np.ndarray:
    """The first and the last frame, (2, H, W, 3); errors as `read`."""
    paths = sorted(folder.glob("*.png"))
    return _read(folder, [*paths[:1], *paths[-1:]])


def _read(folder: Path, paths: list[Path]) -> np.ndarray:
    try:
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    except (OSError, ValueError) as e:
        raise InputError(f"{folder}: its frames can't be read ({e}); remove it and run again") from None
