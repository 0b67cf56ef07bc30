"""Clips of the embedded world with facts about their frames, to train the image encoder."""

from __future__ import annotations

import numpy as np

from svdjax.data.readers import read_clip
from svdjax.data.sources import Clip
from svdjax.data.world_clips import split_and_first_clip
from svdjax.world.facts import facts
from svdjax.world.scene import FRAMES, scene


def read_with_facts(clip: Clip, size: tuple[int, int], fit: str) -> dict[str, np.ndarray]:
    """Read a clip of the embedded world: `clips` uint8 (f, H, W, 3) and `facts` float32 (f, n), see `svdjax.world.facts`."""
    split, first = split_and_first_clip(clip.source.name)
    clip_scene = scene(split, first + clip.start // FRAMES)
    known = np.stack([facts(clip_scene, number % FRAMES) for number in clip.frames])
    return {"clips": read_clip(clip.source, clip.start, clip.num_frames, clip.stride, size, fit), "facts": known}
