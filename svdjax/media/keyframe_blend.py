"""A clip that shows its keyframes exactly, without a jump to the frames beside them.

The VAE's decoder changes a keyframe by several levels, so a keyframe put into a decoded clip differs from its neighbours in
detail and in colour. Both differences fade over the clip:

- what decoding removed from each keyframe is added to the frames in between, with a weight that falls linearly to 0 at the
  other keyframe. Where a frame differs from the decoded keyframe, something has moved, and the weight is reduced: detail must
  not stay behind a moving object;
- a constant per channel is then added to each frame, so that the mean colours of the frames beside the keyframes lie between
  the mean colours of the keyframes. It is interpolated linearly over the clip.
"""

from __future__ import annotations

import numpy as np

MOTION = 8.0  # levels; at this difference from the decoded keyframe, the weight of its detail is 1/e


def keep_keyframes(clips: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Put the keyframes into decoded clips and adapt the frames in between.

    Args:
        clips: uint8 (b, f, H, W, 3), f >= 2.
        first, last: the keyframes, uint8 (b, H, W, 3).

    Returns:
        uint8 (b, f, H, W, 3): frame 0 is `first`, frame f - 1 is `last`.
    """
    return np.stack([_keep(*clip) for clip in zip(clips, first, last, strict=True)])


def _keep(clip: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """`keep_keyframes` of one clip, (f, H, W, 3)."""
    end = len(clip) - 1
    out = clip.copy()
    out[0], out[end] = first, last
    if end == 1:
        return out
    detail_first = _without_mean(np.subtract(first, clip[0], dtype=np.float32))
    detail_last = _without_mean(np.subtract(last, clip[end], dtype=np.float32))
    colour_first, colour_last = _colour(first), _colour(last)

    def detailed(i: int) -> np.ndarray:
        share = i / end
        frame = clip[i].astype(np.float32)
        frame += (1 - share) * _stillness(clip[i], clip[0]) * detail_first
        frame += share * _stillness(clip[i], clip[end]) * detail_last
        return frame

    def colour_error(i: int) -> np.ndarray:
        share = i / end
        return (1 - share) * colour_first + share * colour_last - _colour(detailed(i))

    error_first, error_last = colour_error(1), colour_error(end - 1)
    for i in range(1, end):
        share = (i - 1) / max(end - 2, 1)
        offset = (1 - share) * error_first + share * error_last
        out[i] = np.clip(np.round(detailed(i) + offset), 0, 255).astype(np.uint8)
    return out


def _stillness(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Weight of each pixel, (H, W, 1): 1 where two frames (H, W, 3) agree but for their mean colours, 0 where not."""
    difference = np.abs(_without_mean(np.subtract(frame, other, dtype=np.float32))).mean(-1, keepdims=True)
    return np.exp(-np.square(difference / MOTION))


def _colour(image: np.ndarray) -> np.ndarray:
    """Mean of each channel, (3,)."""
    return image.mean((0, 1), dtype=np.float64).astype(np.float32)


def _without_mean(image: np.ndarray) -> np.ndarray:
    return image - _colour(image)
