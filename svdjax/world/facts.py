"""What a frame of the embedded world shows, in numbers: the world's captions, which its image encoder learns to tell.

SVD's image encoder comes from CLIP, which learned from captions what is in a picture. Learning from the UNet's loss alone,
a small encoder tells the UNet of colours and little else.
"""

from __future__ import annotations

import numpy as np

from svdjax.world.scene import KINDS, LENGTH, SIZE, Scene

_COLOURS = tuple(f"{part}.{channel}" for part in ("thing", "from", "to") for channel in "rgb")
FACTS = (*KINDS, "cos", "sin", "x", "y", "length", *_COLOURS, "gradient.cos", "gradient.sin")


def facts(scene: Scene, t: int) -> np.ndarray:
    """Of frame `t`, float32 (19,), each of about unit variance over the world, in the order of `FACTS`.

    Which kind it is; where the nose points; where the centre is and how long the thing is; its colour and the background's
    two; where the background goes from the one to the other.
    """
    heading = scene.headings[t]
    place = (scene.centres[t] - SIZE / 2) / 10
    colours = np.concatenate([scene.colour, *scene.background])
    return np.array(
        [
            *(2 * (scene.kind == kind) - 2 / len(KINDS) for kind in KINDS),
            *(np.sqrt(2) * f(heading) for f in (np.cos, np.sin)),
            *place,
            (scene.length - np.mean(LENGTH)) / np.ptp(LENGTH) * np.sqrt(12),
            *(3 * (colours - 0.5)),
            *(np.sqrt(2) * f(scene.gradient) for f in (np.cos, np.sin)),
        ],
        np.float32,
    )
