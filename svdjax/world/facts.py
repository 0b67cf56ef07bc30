"""Known facts about a frame of the embedded world, as numbers: the training targets of the image encoder.

SVD's image encoder comes from CLIP, which learned the contents of pictures from captions. These facts take the place of
captions: trained with the UNet's loss alone, a small encoder passes on little more than colours.
"""

from __future__ import annotations

import numpy as np

from svdjax.world.scene import LENGTH, OBJECT_KINDS, SIZE, Scene

_COLOURS = tuple(f"{part}.{channel}" for part in ("object", "from", "to") for channel in "rgb")
FACTS = (*OBJECT_KINDS, "cos", "sin", "x", "y", "length", *_COLOURS, "gradient.cos", "gradient.sin")


def facts(scene: Scene, t: int) -> np.ndarray:
    """The facts about frame `t`, each scaled to about unit variance over the world.

    Returns:
        float32 (19,), in the order of `FACTS`: kind of object; direction of its nose; its centre and length; its colour and
        the two background colours; direction of the background's gradient.
    """
    heading = scene.headings[t]
    position = (scene.centres[t] - SIZE / 2) / 10
    colours = np.concatenate([scene.colour, *scene.background])
    return np.array(
        [
            *(2 * (scene.kind == kind) - 2 / len(OBJECT_KINDS) for kind in OBJECT_KINDS),
            *(np.sqrt(2) * f(heading) for f in (np.cos, np.sin)),
            *position,
            (scene.length - np.mean(LENGTH)) / np.ptp(LENGTH) * np.sqrt(12),
            *(3 * (colours - 0.5)),
            *(np.sqrt(2) * f(scene.gradient) for f in (np.cos, np.sin)),
        ],
        np.float32,
    )
