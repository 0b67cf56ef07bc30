"""Contact sheets: labelled strips of frames, one below the other, to compare clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svdjax.errors import one_line
from svdjax.runtime.atomic import new_file

# Shorter side of a frame on the sheet, in pixels: larger frames are reduced to LARGEST, smaller ones enlarged by a whole number
# to about SMALLEST.
SMALLEST, LARGEST = 96, 192
GAP = 4  # pixels between frames
_HEAD = 24  # height of the column titles, in pixels
_FONT_SIZE = 14
_QUALITY = 90  # quality of WebP: a quarter of a PNG's size, without a visible difference
_TEXT, _PAPER = (20, 20, 20), (255, 255, 255)

Strip = tuple[str, np.ndarray]  # a label and frames, uint8 (f, H, W, 3); H and W are the same in all strips of a sheet


def cross_fade(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """Blend two images linearly: uint8 (H, W, 3) each -> uint8 (count, H, W, 3), both images included."""
    share = np.linspace(0, 1, count)[:, None, None, None]
    return np.round(first * (1 - share) + last * share).astype(np.uint8)


def render(strips: Sequence[Strip], heads: Sequence[str] = ()) -> Image.Image:
    """Draw a contact sheet.

    Args:
        strips: from top to bottom; they may have different numbers of frames.
        heads: titles of the first columns.
    """
    scale, kernel = _scaling(strips[0][1])
    height, width = (round(side * scale) for side in strips[0][1].shape[1:3])
    font = ImageFont.load_default(size=_FONT_SIZE)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    heads, strips = [one_line(head) for head in heads], [(one_line(label), frames) for label, frames in strips]
    left = 2 * GAP + max(int(ruler.textlength(label, font)) for label, _ in strips)
    top = _HEAD if heads else GAP
    columns = max(len(frames) for _, frames in strips)
    sheet = Image.new("RGB", (left + columns * (width + GAP), top + len(strips) * (height + GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        pen.text((left + column * (width + GAP), GAP), head, _TEXT, font)
    for row, (label, frames) in enumerate(strips):
        y = top + row * (height + GAP)
        pen.text((GAP, y + height // 2 - 8), label, _TEXT, font)
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame).resize((width, height), kernel), (left + column * (width + GAP), y))
    return sheet


def _scaling(frames: np.ndarray) -> tuple[float, Image.Resampling]:
    """Scale factor and resampling filter for frames (f, H, W, 3) on the sheet."""
    side = min(frames.shape[1:3])
    if side > LARGEST:
        return LARGEST / side, Image.Resampling.LANCZOS
    return max(1, round(SMALLEST / side)), Image.Resampling.NEAREST


def save(sheet: Image.Image, path: Path) -> None:
    """Write a `.png` or `.webp` file; an old file is replaced only when the new one is complete.

    Raises:
        InputError: the file can't be written.
    """
    with new_file(path) as temporary:
        if path.suffix == ".webp":
            sheet.save(temporary, format="WEBP", quality=_QUALITY, method=6)
        else:
            sheet.save(temporary, format="PNG")
