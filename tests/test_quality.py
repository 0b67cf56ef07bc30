"""The figures of an evaluation: on the truth, on cross-fades, on clips that are wrong in a known way; distances, intervals."""

import numpy as np
import pytest

from sample import frechet, intervals, quality, sheet
from sample.pairs import Pair, of_world, widened
from svdjax.world import scene

PAIR = of_world(1, first=5)[0]


@pytest.fixture(scope="module")
def figures():
    truth = PAIR.truth
    clips = {
        "truth": truth,
        "cross-fade": sheet.cross_fade(truth[0], truth[-1], len(truth)),
        "reverse": truth[::-1],
        "brighter": np.clip(truth.astype(int) + 10, 0, 255).astype(np.uint8),
        "there and back": truth[[0, 3, 6, 7, 4, 2, 5, 7]],
    }
    return {name: quality.figures(PAIR, clip) for name, clip in clips.items()}


def test_pairs_are_of_the_test_split():
    assert PAIR.scene == scene("test", 5)
    assert PAIR.name == "0005"
    region = PAIR.region()
    assert region.shape == (8, 64, 64)
    for t, (x, y) in enumerate(PAIR.scene.centres):
        assert region[t, int(y), int(x)]
    assert 0.02 < region.mean() < 0.25


def test_a_mask_is_widened():
    mask = np.zeros((2, 7, 7), bool)
    mask[0, 3, 3] = mask[1, 0, 6] = True
    found = widened(mask, 2)
    assert found[0, 1:6, 1:6].all()
    assert found[0].sum() == 25
    assert found[1, :3, 4:].all()
    assert found[1].sum() == 9


def test_the_truth_is_best(figures):
    found = figures["truth"]
    assert found["psnr"] == found["region_psnr"] == 100
    assert found["ssim"] == found["region_ssim"] == pytest.approx(1)
    assert found["end_error"] == found["wrong_way"] == 0
    assert found["trajectory_error"] < 0.4
    assert found["path_ratio"] < 1.02


def test_a_cross_fade(figures):
    """Right at its ends, two ghosts between them."""
    found = figures["cross-fade"]
    assert found["end_error"] == 0
    assert found["region_psnr"] < found["psnr"] - 5
    assert found["trajectory_error"] > 2


def test_clips_that_are_wrong_in_a_known_way(figures):
    assert figures["reverse"]["wrong_way"] == 1
    assert figures["brighter"]["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.2)
    assert figures["brighter"]["end_error"] == pytest.approx(10, abs=0.3)
    assert figures["there and back"]["wrong_way"] == pytest.approx(2 / 7)
    assert figures["there and back"]["path_ratio"] > 2


def test_of_other_clips_there_are_fewer_figures():
    found = quality.figures(Pair("0", "a clip", PAIR.truth), PAIR.truth)
    assert sorted(found) == ["end_error", "psnr", "ssim"]


def test_frechet_distance_of_normal_distributions():
    """Known in closed form where covariances are diagonal."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 3))
    a, b = x * [1, 2, 3], rng.permutation(x) * [2, 2, 1] + [1, 0, -1]
    assert frechet.distance(a, b) == pytest.approx(2 + 1 + 0 + 4, rel=0.02)
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)


def test_features_tell_ghosts_from_things():
    pairs = of_world(6)
    truth = np.concatenate([pair.truth[1:-1] for pair in pairs])
    ghosts = np.concatenate([sheet.cross_fade(pair.truth[0], pair.truth[-1], 8)[1:-1] for pair in pairs])
    others = np.concatenate([pair.truth[1:-1] for pair in of_world(6, first=6)])
    found = [frechet.features(frames) for frames in (truth, ghosts, others)]
    assert found[0].shape == (36, 144)
    assert frechet.distance(found[0], found[1]) > 0.02
    assert frechet.features(np.repeat(np.repeat(truth[:1], 2, 1), 2, 2)) == pytest.approx(found[0][:1], abs=0.1)


def test_intervals():
    """Of the mean of normal values: 1.96 standard errors to either side; the same whenever asked."""
    values = np.random.default_rng(1).standard_normal(400)
    found = intervals.of_mean(values)
    low, high = found["interval"]
    assert found["mean"] == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert intervals.of_mean(values) == found
