"""Motion figures: agreement of the flow's direction with the true flow's, and flicker."""

from __future__ import annotations

import numpy as np

MOVING = 1.0  # pixels from frame to frame; a true flow above it is motion
STILL = 0.25  # pixels; a generated flow below it has no direction and agrees with no motion
LEAST_MOVING = 0.005  # of all pixels; a clip with less motion has no agreement: most of its flow is noise
ANGLE = 30.0  # degrees, the largest deviation that counts as the same direction


def flow_agreement(truth: np.ndarray, frames: np.ndarray) -> float:
    """Share of the moving pixels that move in the true direction.

    Dense optical flow from each frame to the next, by OpenCV's DIS with its medium preset on grey frames (Kroeger et al. 2016).
    Pixels move where the true flow is longer than `MOVING`. They agree where the generated flow is longer than `STILL` and
    deviates by at most `ANGLE`. All frames of the clip, keyframes included; the share is over the pixels of all steps together.

    Args:
        truth, frames: uint8 (f, H, W, 3), at least 16x16.

    Returns:
        A share in [0, 1]; NaN if less than `LEAST_MOVING` of the true clip moves.
    """
    import cv2  # pyright: ignore[reportMissingImports]  # of an extra

    cv2.setNumThreads(1)  # clips are measured in several processes
    grey = [[cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip] for clip in (truth, frames)]
    moving = agreeing = pixels = 0
    for step in range(len(truth) - 1):
        true, made = (_flow(clip[step], clip[step + 1]) for clip in grey)
        long, its_length = np.linalg.norm(true, axis=-1), np.linalg.norm(made, axis=-1)
        motion = long > MOVING
        same = (true * made).sum(-1) >= np.cos(np.radians(ANGLE)) * long * its_length
        pixels += motion.size
        moving += int(motion.sum())
        agreeing += int((motion & (its_length > STILL) & same).sum())
    return agreeing / moving if moving > LEAST_MOVING * pixels else float("nan")


def _flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Optical flow between two grey frames, uint8 (H, W) -> (H, W, 2), pixels."""
    import cv2  # pyright: ignore[reportMissingImports]

    # A new object each time: with small frames (56x88), an object changes its scales at its first use.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(first, second, None)  # pyright: ignore


def flicker(truth: np.ndarray, frames: np.ndarray) -> float:
    """Error of the change from frame to frame, dtSSD, in levels of 255.

    The root mean squared difference between the generated and the true change of a pixel, mean over the steps. A constant error
    of the colours gives 0; flicker, jumps and wrong motion do not. Source: Erofeev et al. 2015, "Perceptually Motivated
    Benchmark for Video Matting".

    Args:
        truth, frames: uint8 (f, H, W, 3).
    """
    errors = []
    before = frames[0].astype(np.float32) - truth[0]
    for made, true in zip(frames[1:], truth[1:], strict=True):
        after = made.astype(np.float32) - true
        errors.append(np.sqrt(np.square(after - before).mean(dtype=np.float64)))
        before = after
    return float(np.mean(errors))
