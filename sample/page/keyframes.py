"""Keyframes as the page shows them: read like those of a command, fitted to the video's size, in a strip of thumbnails."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sample.page.preview import data_uri
from svdjax.errors import InputError
from svdjax.media import fit, images

_HEIGHT = 96  # of a thumbnail, pixels
_LARGEST = 512  # longer side of the copies that thumbnails are made of, pixels

Seen = tuple[np.ndarray, tuple[int, ...], tuple[str, ...]]  # a small copy, the shape of the image, notes


def without_folders(message: str, files: Sequence[str]) -> str:
    """A message with the names of uploaded files instead of their paths on this computer."""
    for path in files:
        message = message.replace(path, Path(path).name)
    return message


def look(path: str) -> Seen:
    """Read an image for its thumbnail.

    Raises:
        InputError: see `svdjax.media.images.load_image`.
    """
    return _look(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _look(path: str, changed: int) -> Seen:
    image, notes = images.load_image(path)
    small = Image.fromarray(image)
    small.thumbnail((_LARGEST, _LARGEST))
    return np.asarray(small), image.shape, tuple(without_folders(note, [path]) for note in notes)


def strip(files: Sequence[str], size: tuple[int, int] | None, mode: str) -> str:
    """HTML of the keyframes in time order, as they are fitted to the video, and what was changed.

    Args:
        files: their paths.
        size: (width, height) of the video; None if it isn't known: the keyframes' own shapes.
        mode: see `svdjax.media.fit.fit`.

    Raises:
        InputError: a file that is no image.
    """
    pictures, lines = [], []
    for number, path in enumerate(files, 1):
        small, shape, notes = look(path)
        name = Path(path).name
        lines += notes
        width = shape[1] / shape[0] if size is None else size[0] / size[1]
        box = max(1, round(_HEIGHT * width)), _HEIGHT
        shown = small if size is None else fit.fit(small, (box[0] * 2, box[1] * 2), mode)
        if size is not None:
            lines += filter(None, [fit.describe_fit(name, shape, size, mode)])
        source = data_uri(shown)
        label = html.escape(f"{number}  {name}")
        pictures.append(
            f'<figure><img src="{source}" width="{box[0]}" height="{box[1]}" alt="{label}">'
            f'<figcaption title="{label}">{label}</figcaption></figure>'
        )
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<div class="strip">{"".join(pictures)}</div>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def first_shape(files: Sequence[str]) -> tuple[int, ...] | None:
    """Shape (H, W, 3) of the first keyframe; None without files, or if it is no image."""
    try:
        return look(files[0])[1] if files else None
    except InputError:
        return None
