"""Contact sheets: rows of frames with their names, to compare clips at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svdjax.runtime.atomic import new_file

SMALLEST, LARGEST = 96, 192  # a frame's shorter side, pixels: small ones are enlarged by a whole number, large ones reduced
GAP = 4
_QUALITY = 90  # of webp: a quarter of a PNG's size, and no difference to the eye
_TEXT, _PAPER = (20, 20, 20), (255, 255, 255)

Row = tuple[str, np.ndarray]  # a name and its frames, uint8 (f, H, W, 3); all of one size


def cross_fade(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """What needs no model: (H, W, 3) twice, uint8 -> (count, H, W, 3), fading from one to the other."""
    share = np.linspace(0, 1, count)[:, None, None, None]
    return np.round(first * (1 - share) + last * share).astype(np.uint8)


def draw(rows: Sequence[Row], heads: Sequence[str] = ()) -> Image.Image:
    """The sheet.

    Args:
        rows: from top to bottom; shorter ones are filled with paper.
        heads: names over the columns, which may be fewer.
    """
    height, width = rows[0][1].shape[1:3]
    side = min(height, width)
    scale = LARGEST / side if side > LARGEST else max(1, round(SMALLEST / side))
    width, height = round(width * scale), round(height * scale)
    kernel = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    font = ImageFont.load_default(size=14)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = 2 * GAP + max(int(measure.textlength(name, font)) for name, _ in rows)
    top = 24 if heads else GAP
    columns = max(len(frames) for _, frames in rows)
    sheet = Image.new("RGB", (margin + columns * (width + GAP), top + len(rows) * (height + GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        pen.text((margin + column * (width + GAP), 4), head, _TEXT, font)
    for row, (name, frames) in enumerate(rows):
        y = top + row * (height + GAP)
        pen.text((GAP, y + height // 2 - 8), name, _TEXT, font)
        for column, frame in enumerate(frames):
            picture = Image.fromarray(frame).resize((width, height), kernel)
            sheet.paste(picture, (margin + column * (width + GAP), y))
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a `.png` or `.webp`, by its ending; an old one is replaced once the new one is whole.

    Raises:
        InputError: it can't be written.
    """
    with new_file(path) as temporary:
        if path.suffix == ".webp":
            sheet.save(temporary, format="WEBP", quality=_QUALITY, method=6)
        else:
            sheet.save(temporary, format="PNG")
