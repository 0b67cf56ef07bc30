"""Scene cuts of a video, with PySceneDetect's adaptive detector.

PySceneDetect is maintained, needs no trained network, and takes frames that this project decoded, so that frame numbers agree.
The adaptive detector compares the change of a frame with the changes around it: a fast pan or a moving camera is no cut.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from PIL import Image

from svdjax.errors import InputError

DETECT = "detect"  # instead of a list of cuts
_WIDTH = 256  # frames are reduced by a whole number to at least this width, as PySceneDetect does by default
_RATE = 25.0  # the detector wants times; only their order matters


def check_installed(option: str) -> None:
    """Raise `InputError` if PySceneDetect or OpenCV is missing; `option` says in the message what to give instead."""
    for module in ("scenedetect", "cv2"):
        if importlib.util.find_spec(module) is None:
            package = 'scenedetect-headless is not installed, but scene cuts need it: pip install -e ".[evaluate]"'
            raise InputError(f"{package}, or give {option}")


def description() -> str:
    """The detector with its version and settings, for records."""
    import scenedetect

    return f"PySceneDetect {scenedetect.__version__} AdaptiveDetector(min_scene_len=1)"


class CutFinder:
    """Finds the cuts of a video from its frames, in order.

    Cuts in the first and last two frames are not found, and cuts around scenes of one or two frames can be missed.
    """

    def __init__(self) -> None:
        from scenedetect.detectors import AdaptiveDetector

        self._detector = AdaptiveDetector(min_scene_len=1)
        self._frames = 0
        self._cuts: list[int] = []

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 (H, W, 3)."""
        from scenedetect import FrameTimecode

        small = np.asarray(Image.fromarray(frame).reduce(max(1, frame.shape[1] // _WIDTH)))
        bgr = np.ascontiguousarray(small[..., ::-1])
        self._cuts += [cut.frame_num for cut in self._detector.process_frame(FrameTimecode(self._frames, _RATE), bgr)]
        self._frames += 1

    def cuts(self) -> tuple[int, ...]:
        """The first frame of every scene but the first; frames count from 0."""
        return tuple(sorted(self._cuts))
