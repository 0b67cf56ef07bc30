"""Clips that show their keyframes: the keyframes exactly, and no jump beside them."""

from __future__ import annotations

import numpy as np
import pytest
from media import moving_photo

from svdjax.media.keyframe_blend import keep_keyframes


@pytest.fixture(scope="module")
def still():
    """A photograph that stays: uint8 (9, 112, 208, 3) with values that leave space for changes."""
    return np.repeat(40 + moving_photo()[:1] // 2, 9, 0)


def blend(decoded, truth):
    return keep_keyframes(decoded[None], truth[:1], truth[-1:])[0]


@pytest.mark.parametrize("count", [2, 3, 4, 9])
def test_keyframes_are_exact_and_a_perfect_clip_stays(still, count):
    truth = moving_photo()[:count]
    kept = blend(truth, truth)
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept[[0, -1]], truth[[0, -1]])
    assert np.abs(kept.astype(int) - truth).mean() < 1  # mean colours between the keyframes' are put on a line
    np.testing.assert_array_equal(blend(still[:count], still[:count]), still[:count])


def test_another_colour_of_the_decoded_frames_is_removed(still):
    """The decoder adds a colour, not the same to the keyframes as to the frames in between."""
    decoded = still + np.uint8([3, 0, 9])
    decoded[[0, -1]] = still[[0, -1]] + np.uint8([1, 4, 0])
    np.testing.assert_array_equal(blend(decoded, still), still)


def test_a_scene_that_becomes_brighter_keeps_its_pace(still):
    truth = still + np.arange(9, dtype=np.uint8)[:, None, None, None] * 2
    decoded = truth + np.uint8(5)
    assert np.abs(blend(decoded, truth).astype(int) - truth).max() <= 1


def test_lost_detail_of_still_parts_comes_back(still):
    """The decoder blurs; the detail of each keyframe fades towards the other, so both together restore it."""
    blurred = ((still.astype(int) + np.roll(still, 1, 2) + np.roll(still, -1, 2)) // 3).astype(np.uint8)
    np.testing.assert_array_equal(blend(blurred, still), still)


def test_detail_does_not_stay_behind_a_moving_object():
    """Where a frame differs from the decoded keyframes, it stays as it is, apart from one constant per channel."""
    truth = np.full((5, 32, 32, 3), 90, np.uint8)
    for i in range(5):
        truth[i, 8:24, 5 * i : 5 * i + 8] = 220
    decoded = truth.copy()
    decoded[0, 8:24, :8:2] = 200  # the decoder lost a pattern of the object
    kept = blend(decoded, truth)[2].astype(int)
    np.testing.assert_array_equal(kept[8:24, :8], np.broadcast_to(kept[8, 0], (16, 8, 3)))


def test_clips_of_a_batch_are_independent(still):
    decoded = np.stack([still + np.uint8(3), still - np.uint8(3)])
    both = keep_keyframes(decoded, np.stack([still[0]] * 2), np.stack([still[-1]] * 2))
    for k in range(2):
        np.testing.assert_array_equal(both[k], blend(decoded[k], still))
