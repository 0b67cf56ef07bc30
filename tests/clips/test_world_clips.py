"""`--data world`: the embedded world through the same reading as a folder of videos."""

import dataclasses

import numpy as np
import pytest

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.scan import Found, scan
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from svdjax.world.drawing import render
from svdjax.world.facts import FACTS, facts
from svdjax.world.scene import KINDS, scene
from train.batches.clips_with_facts import read_with_facts
from train.batches.loader import Loader

SETTINGS = DataSettings("world", 8, (64, 64), hold_out=1)


def test_clips_are_those_of_the_world():
    found = scan(SETTINGS)
    (source,), (held_out,) = found.usable, found.held_out
    assert (source.name, source.clips, held_out.name) == ("train", 2**20, "validation")
    np.testing.assert_array_equal(read_clip(held_out, held_out.start(3), 8, 1, (64, 64)), render(scene("validation", 3)))
    order = Order(found.usable, SETTINGS, seed=1)
    with Loader(order, batch_size=4, rows=[1, 3], first_step=5, workers=0) as batches:
        batch = next(iter(batches))
    for row, clip in zip([1, 3], batch.arrays["clips"], strict=True):
        number, offset = divmod(order.clip(4 * 4 + row).start, 8)
        assert offset == 0
        np.testing.assert_array_equal(clip, render(scene("train", number)))
    assert len({order.clip(i).start for i in range(1000)}) > 990


def test_the_first_clips_alone():
    settings = dataclasses.replace(SETTINGS, clips=3)
    found = scan(settings)
    (source,), (held_out,) = found.usable, found.held_out
    assert (source.clips, held_out.clips) == (3, 2**10)
    assert found.fingerprint != scan(SETTINGS).fingerprint
    order = Order(found.usable, settings, seed=1)
    assert {order.clip(i).start for i in range(100)} == {0, 8, 16}


def test_the_first_clips_in_parts():
    """Of almost one size, each a source that is cached by itself; together the first ones."""
    settings = dataclasses.replace(SETTINGS, clips=2051)
    found = scan(settings)
    assert [source.clips for source in found.usable] == [683, 684, 684]
    for source, number in zip(found.usable, (0, 683, 1367), strict=True):
        np.testing.assert_array_equal(read_clip(source, source.start(2), 8, 1, (64, 64)), render(scene("train", number + 2)))
        row = read_with_facts(Clip(source, source.start(2), 8, 1), (64, 64), "crop")
        np.testing.assert_array_equal(row["facts"][3], facts(scene("train", number + 2), 3))
    assert len({source.digest for source in found.usable}) == 3
    assert Found.from_json(found.to_json(), "world") == found


def test_clips_with_facts():
    """Of each of their frames."""
    settings = DataSettings("world", 2, (64, 64), stride=7)
    clip = Order(scan(settings).usable, settings, seed=2).clip(0)
    row = read_with_facts(clip, (64, 64), "crop")
    of = scene("train", clip.start // 8)
    np.testing.assert_array_equal(row["clips"], render(of)[[0, 7]])
    np.testing.assert_array_equal(row["facts"], [facts(of, 0), facts(of, 7)])


def test_facts():
    """What they say, of one scene; over the world they have about unit variance, none of them known beforehand."""
    of = scene("validation", 5)
    known = dict(zip(FACTS, facts(of, 3), strict=True))
    assert max(KINDS, key=known.get) == of.kind
    np.testing.assert_allclose(np.arctan2(known["sin"], known["cos"]) % (2 * np.pi), of.headings[3] % (2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose([known["x"], known["y"]], (of.centres[3] - 32) / 10, rtol=1e-5)
    np.testing.assert_allclose([known[f"thing.{c}"] for c in "rgb"], 3 * (np.array(of.colour) - 0.5), rtol=1e-5)
    many = np.stack([facts(scene("validation", i), 0) for i in range(400)])
    assert np.abs(many.mean(0)).max() < 0.8
    assert many.std(0).min() > 0.5
    assert many.std(0).max() < 1.5


def test_fewer_and_larger_frames():
    settings = DataSettings("world", 4, (128, 128), stride=2)
    (source,) = scan(settings).usable
    assert scan(settings).held_out == ()
    clip = read_clip(source, source.start(7), 4, 2, settings.size)
    assert clip.shape == (4, 128, 128, 3)
    small = clip.reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - render(scene("train", 7))[::2]).mean() < 4


def test_what_is_found_goes_to_other_processes():
    found = scan(SETTINGS)
    assert Found.from_json(found.to_json(), "world") == found
    assert found.usable[0].motion > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_frames": 9}, "--num-frames 9 at --stride 1 takes 9 frames, expected at most the 8 of the world's clips"),
        ({"num_frames": 5, "stride": 2}, "--num-frames 5 at --stride 2 takes 9 frames"),
        ({"num_frames": 8, "min_motion": 2}, "--min-motion 2 with --data world: everything in it moves"),
    ],
)
def test_what_it_has_not(settings, said):
    with pytest.raises(InputError) as error:
        scan(DataSettings("world", size=(64, 64), **settings))
    assert str(error.value).startswith(said)
