"""Tracking the object: in true frames, shifted frames, ghosts, and frames without an object."""

import dataclasses

import numpy as np
import pytest

from sample.evaluation.tracking import track, wrong_way
from svdjax.world.drawing import background, render
from svdjax.world.scene import scene


@pytest.fixture(scope="module")
def scenes():
    return [scene("test", number) for number in range(4)]


def errors(s, found):
    return np.hypot(*(found.centres - s.centres).T)


def test_true_frames(scenes):
    for s in scenes:
        found = track(s, render(s))
        assert errors(s, found).mean() < 0.3
        np.testing.assert_allclose(found.headings, s.headings)
        assert found.mismatch.max() < 0.15
        assert not wrong_way(s, found).any()


def test_reversed_clip_goes_the_wrong_way(scenes):
    s = scenes[0]
    found = track(s, render(s)[::-1])
    assert wrong_way(s, found).all()
    np.testing.assert_allclose(found.centres[::-1], track(s, render(s)).centres, atol=1)


def test_shifted_object(scenes):
    s = scenes[1]
    shifted = dataclasses.replace(s, centre=(s.centre[0] + 3, s.centre[1] - 2))
    moved = track(s, render(shifted)).centres - track(s, render(s)).centres
    np.testing.assert_allclose(moved, np.tile([3, -2], (8, 1)), atol=0.3)


def test_two_ghosts_are_not_one_object_between_them(scenes):
    s = scenes[2]
    clip = render(s).astype(float)
    share = np.arange(8)[:, None, None, None] / 7
    found = track(s, np.round(clip[0] * (1 - share) + clip[-1] * share).astype(np.uint8))
    assert errors(s, found)[[0, -1]].max() < 0.5
    assert errors(s, found)[2:6].min() > 2


def test_frames_without_an_object(scenes):
    s = scenes[3]
    empty = np.round(255 * background(s).clip(0, 1)).astype(np.uint8)
    assert track(s, np.stack([empty] * 8)).mismatch.min() > 0.25
