"""Clips of the embedded world with the known facts of their frames, for the image encoder's training."""

from __future__ import annotations

import numpy as np

from svdjax.data.readers import read_clip
from svdjax.data.sources import Clip
from svdjax.data.world_clips import place_in_world
from svdjax.world.facts import facts
from svdjax.world.scene import FRAMES, scene


def read_with_facts(clip: Clip, size: tuple[int, int], fit: str) -> dict[str, np.ndarray]:
    """A clip of the world, `clips` (f, H, W, 3), and `facts` (f, n) of its frames (`svdjax.world.facts`)."""
    split, first = place_in_world(clip.source.path)
    of = scene(split, first + clip.start // FRAMES)
    known = np.stack([facts(of, number % FRAMES) for number in clip.frames])
    return {"clips": read_clip(clip.source, clip.start, clip.num_frames, clip.stride, size, fit), "facts": known}
