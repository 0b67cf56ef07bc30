"""The embedded world: properties of every clip."""

import numpy as np
import pytest

from svdjax.world.drawing import background, coverage, layers, render
from svdjax.world.scene import FRAMES, OBJECT_KINDS, SIZE, SPLITS, VERSION, scene

# The first clip of each kind in each split: its number, the sum of its scene's parameters, its mean level.
EXPECTED = {
    ("train", "dart"): (0, 152.555093, 100.846),
    ("train", "car"): (2, 135.065608, 114.811),
    ("train", "fish"): (1, 113.435773, 123.997),
    ("validation", "dart"): (4, 165.361215, 180.48),
    ("validation", "car"): (0, 114.303207, 120.733),
    ("validation", "fish"): (1, 137.396023, 95.07),
    ("test", "dart"): (0, 133.723026, 116.312),
    ("test", "car"): (3, 184.74648, 121.682),
    ("test", "fish"): (8, 149.235017, 126.783),
}
OUTSIDE = [0, 2, 3, 4, 9, 11, 14, 23, 33, 34, 43, 49, 51, 52, 54]  # training clips with the object at an edge in a keyframe
SCENES = [scene(split, number) for split in SPLITS for number in range(60)]


def test_clips_are_reproducible_and_different():
    assert scene("train", 5) == scene("train", 5)
    assert len({str(s) for s in SCENES}) == len(SCENES)


def test_the_world_is_frozen():
    """If these values change, `VERSION` must change too."""
    assert VERSION == 1
    for (split, kind), (number, summed, level) in EXPECTED.items():
        s = scene(split, number)
        assert [scene(split, i).kind for i in range(number + 1)].index(kind) == number
        colours = (s.colour, *s.background)
        parts = (s.length, s.speed, s.turn, s.heading, s.gradient, *s.centre, *np.ravel(colours), *np.ravel(s.waves))
        assert sum(parts) == pytest.approx(summed, abs=1e-5)
        assert render(s).mean() == pytest.approx(level, abs=0.01)
    assert [number for number in range(60) if at_an_edge(scene("train", number))] == OUTSIDE


def at_an_edge(s):
    covered = coverage(s)[[0, -1]]
    return max(covered[:, [0, -1]].max(), covered[:, :, [0, -1]].max()) > 0


def test_ranges():
    for s in SCENES:
        assert s.kind in OBJECT_KINDS
        assert 18 <= s.length <= 26
        assert 2.5 <= s.speed <= 4.5
        assert abs(s.turn) <= np.radians(4)
        hue = np.asarray(s.colour)
        assert 1 - hue.min() / hue.max() >= 0.75 - 1e-9  # saturation
        assert all(np.linalg.norm(hue - other) >= 0.5 for other in s.background)
    assert {s.kind for s in SCENES} == set(OBJECT_KINDS)
    assert np.ptp([s.heading for s in SCENES]) > 5.5


def test_the_object_always_moves_toward_its_nose():
    for s in SCENES:
        steps = np.diff(s.centres, axis=0)
        np.testing.assert_allclose(np.hypot(*steps.T), s.speed, rtol=1e-9)
        along = [steps[t] @ [np.cos(h), np.sin(h)] for t, h in enumerate(s.headings[:-1])]
        assert min(along) > 0.99 * s.speed


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_whole_object_is_in_both_keyframes(split):
    for number in range(100):
        covered = coverage(scene(split, number))[[0, -1]]
        assert covered[:, [0, -1]].max() == covered[:, :, [0, -1]].max() == 0
        s = scene(split, number)
        assert (covered.sum((1, 2)) > 0.15 * s.length**2).all()


def test_the_object_leaves_some_training_clips():
    cut = [coverage(s)[[0, -1]] for s in SCENES[:60]]
    outside = [max(c[:, [0, -1]].max(), c[:, :, [0, -1]].max()) > 0 or c.sum((1, 2)).min() == 0 for c in cut]
    assert 0.1 < np.mean(outside) < 0.45


def test_pictures_agree_with_centres_and_headings():
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for s in SCENES[60:90]:
        clip, covered = render(s), coverage(s)
        assert clip.shape == (FRAMES, SIZE, SIZE, 3)
        assert clip.dtype == np.uint8
        still = np.round(255 * background(s).clip(0, 1))
        changed = np.abs(clip - still).max(-1) > 1
        assert not changed[covered == 0].any()
        assert changed[covered > 0.5].mean() > 0.98
        for t in range(FRAMES):
            centroid = np.array([(covered[t] * a).sum() / covered[t].sum() for a in (x, y)])
            assert np.hypot(*(centroid - s.centres[t])) < 0.15 * s.length
            # nothing is covered from 1.5 pixels in front of the tip of the nose
            nose = np.array([np.cos(s.headings[t]), np.sin(s.headings[t])])
            tip = s.centres[t] + nose * s.length / 2
            in_front = np.floor(tip + 1.5 * nose).astype(int)
            if (in_front >= 0).all() and (in_front < SIZE).all():
                assert covered[t][in_front[1], in_front[0]] == 0


@pytest.mark.parametrize("kind", OBJECT_KINDS)
def test_nose_and_tail_look_different(kind):
    s = next(s for s in SCENES if s.kind == kind)
    u, v = np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.3, 0.3, 25))
    picture = np.zeros((*u.shape, 3))
    for shape, colour in layers(s):
        picture[shape(u, v) < 0] = colour
    assert np.abs(picture - picture[:, ::-1]).mean() > 0.05
