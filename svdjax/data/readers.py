"""Frames and clips of any source, through the reader of its kind. Only that reader's libraries are imported."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar, cast

import numpy as np

from svdjax.data.frame_reader import FrameReader, Pixels
from svdjax.data.sources import Clip, Source
from svdjax.errors import InputError, one_line
from svdjax.media.fit import fit as fit_image

READERS = {  # by the kind in `Source` and `data.csv`
    "video": "svdjax.data.video_files",
    "animation": "svdjax.data.animations",
    "frames": "svdjax.data.frame_folders",
    "world": "svdjax.data.world_clips",
}


_T = TypeVar("_T")


def reader(kind: str) -> FrameReader:
    """The reader of a kind, a key of `READERS`.

    Its functions raise `InputError` instead of every other exception: decoders and parsers raise nearly any kind on damaged
    or unusual files, and none of them may end a run that reads many files.
    """
    return _Guarded(cast(FrameReader, import_module(READERS[kind])))


@dataclass(frozen=True)
class _Guarded:
    """A reader with only one kind of exception, see `reader`."""

    reader: FrameReader

    def frames(self, path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
        frames = _guarded(path, lambda: self.reader.frames(path, start, count))
        while (pixels := _guarded(path, lambda: next(frames, None))) is not None:
            yield functools.partial(_guarded, path, pixels)

    def digest(self, path: str) -> tuple[int, str]:
        return _guarded(path, lambda: self.reader.digest(path))


def _guarded(path: str, function: Callable[[], _T]) -> _T:
    try:
        return function()
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: can't be read (there is not enough memory for its frames)") from None
    except Exception as e:
        raise InputError(f"{path}: can't be read ({type(e).__name__}: {one_line(e, 200)})") from e


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
