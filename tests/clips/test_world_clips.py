"""`--data world`: clips of the embedded world, read like clips of a folder."""

import dataclasses

import numpy as np
import pytest

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.scan import ScanResult, scan
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from svdjax.world.drawing import render
from svdjax.world.facts import FACTS, facts
from svdjax.world.scene import OBJECT_KINDS, scene
from train.batches.clips_with_facts import read_with_facts
from train.batches.loader import Loader

SETTINGS = DataSettings(folder="world", num_frames=8, size=(64, 64), hold_out=1)


def test_clips_are_renderings_of_scenes():
    result = scan(SETTINGS)
    (source,), (held_out,) = result.usable, result.held_out
    assert (source.name, source.clips, held_out.name) == ("train", 2**20, "validation")
    np.testing.assert_array_equal(read_clip(held_out, held_out.start(3), 8, 1, (64, 64)), render(scene("validation", 3)))
    order = Order(result.usable, SETTINGS, seed=1)
    with Loader(order, batch_size=4, rows=[1, 3], first_step=5, workers=0) as batches:
        batch = next(iter(batches))
    for row, clip in zip([1, 3], batch.arrays["clips"], strict=True):
        number, offset = divmod(order.clip(4 * 4 + row).start, 8)
        assert offset == 0
        np.testing.assert_array_equal(clip, render(scene("train", number)))
    assert len({order.clip(i).start for i in range(1000)}) > 990


def test_only_the_first_clips():
    settings = dataclasses.replace(SETTINGS, clips=3)
    result = scan(settings)
    (source,), (held_out,) = result.usable, result.held_out
    assert (source.clips, held_out.clips) == (3, 2**10)
    assert result.fingerprint != scan(SETTINGS).fingerprint
    order = Order(result.usable, settings, seed=1)
    assert {order.clip(i).start for i in range(100)} == {0, 8, 16}


def test_the_first_clips_in_parts():
    """Several sources of almost equal size, each with its own cache entry; together they are the first clips."""
    settings = dataclasses.replace(SETTINGS, clips=2051)
    result = scan(settings)
    assert [source.clips for source in result.usable] == [683, 684, 684]
    for source, number in zip(result.usable, (0, 683, 1367), strict=True):
        np.testing.assert_array_equal(read_clip(source, source.start(2), 8, 1, (64, 64)), render(scene("train", number + 2)))
        row = read_with_facts(Clip(source, source.start(2), 8, 1), (64, 64), "crop")
        np.testing.assert_array_equal(row["facts"][3], facts(scene("train", number + 2), 3))
    assert len({source.digest for source in result.usable}) == 3
    assert ScanResult.from_json(result.to_json(), "world") == result


def test_clips_with_facts():
    settings = DataSettings(folder="world", num_frames=2, size=(64, 64), stride=7)
    clip = Order(scan(settings).usable, settings, seed=2).clip(0)
    row = read_with_facts(clip, (64, 64), "crop")
    clip_scene = scene("train", clip.start // 8)
    np.testing.assert_array_equal(row["clips"], render(clip_scene)[[0, 7]])
    np.testing.assert_array_equal(row["facts"], [facts(clip_scene, 0), facts(clip_scene, 7)])


def test_facts():
    """The values for one scene; over the world every fact varies, with about unit variance."""
    s = scene("validation", 5)
    known = dict(zip(FACTS, facts(s, 3), strict=True))
    assert max(OBJECT_KINDS, key=lambda kind: known[kind]) == s.kind
    np.testing.assert_allclose(np.arctan2(known["sin"], known["cos"]) % (2 * np.pi), s.headings[3] % (2 * np.pi), rtol=1e-5)
    np.testing.assert_allclose([known["x"], known["y"]], (s.centres[3] - 32) / 10, rtol=1e-5)
    np.testing.assert_allclose([known[f"object.{c}"] for c in "rgb"], 3 * (np.array(s.colour) - 0.5), rtol=1e-5)
    many = np.stack([facts(scene("validation", i), 0) for i in range(400)])
    assert np.abs(many.mean(0)).max() < 0.8
    assert many.std(0).min() > 0.5
    assert many.std(0).max() < 1.5


def test_fewer_and_larger_frames():
    settings = DataSettings(folder="world", num_frames=4, size=(128, 128), stride=2)
    (source,) = scan(settings).usable
    assert scan(settings).held_out == ()
    clip = read_clip(source, source.start(7), 4, 2, settings.size)
    assert clip.shape == (4, 128, 128, 3)
    small = clip.reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - render(scene("train", 7))[::2]).mean() < 4


def test_the_scan_result_goes_to_other_processes():
    result = scan(SETTINGS)
    assert ScanResult.from_json(result.to_json(), "world") == result
    assert result.usable[0].motion > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 9}, "--num-frames 9 at --stride 1 takes 9 frames, expected at most the 8 of the world's clips"),
        ({"num_frames": 5, "stride": 2}, "--num-frames 5 at --stride 2 takes 9 frames"),
        ({"num_frames": 8, "min_motion": 2}, "--min-motion 2 with --data world: every clip of it moves"),
    ],
)
def test_impossible_clips(settings, message):
    with pytest.raises(InputError) as error:
        scan(DataSettings(folder="world", size=(64, 64), **settings))
    assert str(error.value).startswith(message)
