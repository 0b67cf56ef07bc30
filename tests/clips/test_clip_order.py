"""The order of clips: a function of seed and position, epochs with each source once, uniform starts."""

import json
import subprocess
import sys

import numpy as np
import pytest

from svdjax.data.clip_order import Order
from svdjax.data.sources import DataSettings, Source
from svdjax.errors import InputError

SETTINGS = DataSettings(folder=".", num_frames=4, size=(32, 24), stride=2)


def source(name, starts=((0, 5),)):
    return Source(
        name=name,
        path=f"/data/{name}",
        kind="video",
        frames=99,
        width=32,
        height=24,
        motion=1.0,
        starts=starts,
        size_in_bytes=1,
        digest="00",
    )


SOURCES = [source(f"{i}.mp4", ((i, 2 * i + 1), (40, 43))) for i in range(7)]


def clips(order, positions):
    return [(clip.source.name, clip.start) for clip in map(order.clip, positions)]


def test_epochs_are_permutations_that_differ():
    order = Order(SOURCES, SETTINGS, 3)
    names = [name for name, _ in clips(order, range(7 * 20))]
    epochs = [tuple(names[i : i + 7]) for i in range(0, len(names), 7)]
    assert all(sorted(epoch) == [s.name for s in SOURCES] for epoch in epochs)
    assert len(set(epochs)) == 20


def test_the_same_for_any_division_among_processes():
    """A step's clips don't depend on which process requests which rows, in which order, or on earlier requests."""
    whole = [clip.name for step in range(1, 9) for clip in Order(SOURCES, SETTINGS, 1).clips(step, 6, range(6))]
    assert whole == [clip.name for clip in map(Order(SOURCES, SETTINGS, 1).clip, range(48))]
    for processes in (1, 2, 3, 6):
        rows = [list(range(6))[i::processes] for i in range(processes)]
        for step in (8, 3, 5):
            clip_of_row = {}
            for own in reversed(rows):
                clip_of_row |= zip(own, Order(SOURCES, SETTINGS, 1).clips(step, 6, own), strict=True)
            assert [clip_of_row[row].name for row in range(6)] == whole[6 * (step - 1) : 6 * step]


def test_seeds_differ_and_reproduce_in_another_process():
    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_clip_order as t
print(json.dumps(t.clips(t.Order(t.SOURCES, t.SETTINGS, 5), range(30))))
"""
    tests = __file__.rsplit("/", 1)[0]
    out = subprocess.run([sys.executable, "-c", code, tests], capture_output=True, text=True, check=True).stdout
    here = clips(Order(SOURCES, SETTINGS, 5), range(30))
    assert [tuple(item) for item in json.loads(out)] == here
    assert clips(Order(SOURCES, SETTINGS, 6), range(30)) != here


def test_the_order_never_changes_between_versions():
    """A resumed run must continue with the same clips: values recorded with the first version."""
    assert clips(Order(SOURCES, SETTINGS, 5), [0, 1, 6, 7, 10**6, 2**40]) == RECORDED


def test_starts_are_drawn_uniformly():
    one = Order([source("a", ((2, 5), (9, 11)))], SETTINGS, 0)
    starts = [start for _, start in clips(one, range(5000))]
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [2, 3, 4, 9, 10]
    assert np.abs(counts - 1000).max() < 6 * np.sqrt(1000 * 0.8)  # six standard deviations


def test_neighbouring_draws_are_uncorrelated():
    """Starts at neighbouring positions and with neighbouring seeds."""
    two = [Order([source("a", ((0, 1000),))], SETTINGS, seed) for seed in (1, 2)]
    first, second = (np.array([order.clip(i).start for i in range(1000)]) for order in two)
    for a, b in ((first[:-1], first[1:]), (first, second), (first[1:], second[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(1000)


def test_clips_have_the_settings():
    clip = Order(SOURCES, SETTINGS, 0).clip(0)
    assert (clip.num_frames, clip.stride) == (4, 2)
    assert list(clip.frames) == [clip.start + i for i in (0, 2, 4, 6)]


def test_refusals():
    with pytest.raises(InputError, match=r"^--seed is -1, expected at least 0$"):
        Order(SOURCES, SETTINGS, -1)
    with pytest.raises(ValueError, match="no sources"):
        Order([], SETTINGS, 0)


RECORDED = [("4.mp4", 41), ("2.mp4", 40), ("1.mp4", 42), ("3.mp4", 6), ("3.mp4", 41), ("1.mp4", 42)]
