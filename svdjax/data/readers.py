"""Frames and clips of any source, through the reader of its kind. Only that reader's libraries are imported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import cast

import numpy as np

from svdjax.data.frame_reader import FrameReader
from svdjax.data.sources import Clip, Source
from svdjax.errors import InputError
from svdjax.media.fit import fit as fit_image

READERS = {  # by the kind in `Source` and `data.csv`
    "video": "svdjax.data.video_files",
    "animation": "svdjax.data.animations",
    "frames": "svdjax.data.frame_folders",
    "world": "svdjax.data.world_clips",
}


def reader(kind: str) -> FrameReader:
    """The reader module of a kind, a key of `READERS`."""
    return cast(FrameReader, import_module(READERS[kind]))


def read_clip(source: Source, start: int, num_frames: int, stride: int, size: tuple[int, int], fit: str = "crop") -> np.ndarray:
    """Decode one clip. No other frame is converted to pixels or kept.

    Args:
        source: to read from.
        start: number of the first frame, from 0.
        num_frames, stride: see `DataSettings`.
        size: (width, height).
        fit: `crop`, `pad` or `stretch`.

    Returns:
        uint8 (f, height, width, 3), forward in time.

    Raises:
        InputError: the source can't be read, or has changed since it was scanned.
    """
    clip = np.empty((num_frames, size[1], size[0], 3), np.uint8)
    for i, frame in enumerate(read_frames(source, Clip(source, start, num_frames, stride).frames, size, fit)):
        clip[i] = frame
    return clip


def read_frames(source: Source, numbers: Sequence[int], size: tuple[int, int], fit: str = "crop") -> Iterator[np.ndarray]:
    """Yield the frames with the given ascending numbers, uint8 (height, width, 3). For the rest see `read_clip`."""
    wanted = iter(numbers)
    next_wanted = next(wanted, None)
    if next_wanted is None:
        return
    for number, pixels in enumerate(reader(source.kind).frames(source.path, next_wanted, source.frames), next_wanted):
        if number < next_wanted:
            continue
        frame = pixels()
        if frame.shape != (source.height, source.width, 3):
            change = f"frame {number} is {frame.shape[1]}x{frame.shape[0]}, it was {source.width}x{source.height}"
            raise InputError(f"{source.path}: has changed since it was scanned: {change}")
        yield fit_image(frame, size, fit)
        next_wanted = next(wanted, None)
        if next_wanted is None:
            return
    raise InputError(f"{source.path}: has changed since it was scanned: no frame {next_wanted}, it had {source.frames}")
