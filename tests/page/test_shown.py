"""The preview of a running job: how often frames are made, and that the last estimates are shown."""

from __future__ import annotations

import numpy as np

from sample.page.shown import Shown


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def shown(clips=1):
    """A preview, its clock, and the estimates that frames were made of."""
    clock, made = Clock(), []

    def frames_of(latents):
        made.append(latents.flat[0])
        return np.full((3, 1, 1, 3), latents.flat[0], np.uint8)

    return Shown(frames_of, clips, clock), clock, made


def estimates(first, count=1):
    return np.stack([np.full((3, 1, 1, 4), first + k) for k in range(count)])


def test_at_most_one_a_second_and_the_last_at_the_end():
    preview, clock, made = shown()
    for k in range(50):
        clock.now = 100 + k / 50
        preview.estimate(0, estimates(k))
        preview.update(at_once=k == 49)
    assert made == [0, 49]
    assert (preview.frames == 49).all()
    for k in range(50, 250):
        clock.now = 100 + k / 50
        preview.estimate(0, estimates(k))
        preview.update()
    assert len(made) in (5, 6)


def test_an_estimate_is_shown_later():
    preview, clock, made = shown()
    for k in range(2):
        preview.estimate(0, estimates(k))
        preview.update()
    assert made == [0]
    clock.now += 1
    for _ in range(2):  # the second has nothing new
        preview.update()
        clock.now += 1
    assert made == [0, 1]


def test_the_last_estimate_of_every_clip_is_kept():
    """Two clips at a time, of three: the fourth is filled up and not shown."""
    preview, _, made = shown(clips=3)
    for number, first in ((0, 10), (0, 20), (2, 30), (2, 40)):
        preview.estimate(number, estimates(first, 2))
        preview.update()
    assert made == [10, 11, 20, 21]
    preview.update(at_once=True)
    assert made == [10, 11, 20, 21, 40]
    np.testing.assert_array_equal(preview.frames[:, 0, 0, 0], [20, 20, 20, 21, 21, 40, 40])
