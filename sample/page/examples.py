"""Keyframes to try the embedded model with: the ends of clips of the embedded world that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from svdjax.world.drawing import render
from svdjax.world.scene import scene

CLIPS = {"dart": 1, "car": 17, "fish": 16}  # numbers in the split `test`
_SHOWN, _GAP = (192, 192), 6  # of the pictures that show a pair


def write(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Write the examples to an existing folder.

    Returns:
        For each name the paths of its keyframes, and of a picture of both.
    """
    found = {}
    for name, number in CLIPS.items():
        clip = render(scene("test", number))
        paths = [folder / f"{name}-first.png", folder / f"{name}-last.png", folder / f"{name}.png"]
        both = [np.asarray(Image.fromarray(clip[at]).resize(_SHOWN, Image.Resampling.LANCZOS)) for at in (0, -1)]
        gap = np.full((_SHOWN[1], _GAP, 3), 255, np.uint8)
        for path, picture in zip(paths, (clip[0], clip[-1], np.concatenate([both[0], gap, both[1]], 1)), strict=True):
            Image.fromarray(picture).save(path)
        found[name] = [str(paths[0]), str(paths[1])], str(paths[2])
    return found
