"""Metrics of an evaluation on true clips, cross-fades and clips with known errors; Frechet distances; bootstrap intervals."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sample import contact_sheet
from sample.evaluation import bootstrap, frechet, metrics
from sample.evaluation.keyframe_pairs import of_world
from sample.evaluation.metrics import dilate, object_region
from svdjax.world.scene import scene

PAIR = of_world(1, first=5).pairs[0]
SCENE = scene("test", 5)
TRUTH = PAIR.read()


@pytest.fixture(scope="module")
def clip_metrics():
    truth = TRUTH
    clips = {
        "truth": truth,
        "cross-fade": contact_sheet.cross_fade(truth[0], truth[-1], len(truth)),
        "reverse": truth[::-1],
        "brighter": np.clip(truth.astype(int) + 10, 0, 255).astype(np.uint8),
        "there and back": truth[[0, 3, 6, 7, 4, 2, 5, 7]],
    }
    return {name: metrics.clip_metrics(truth, clip, SCENE) for name, clip in clips.items()}


def test_pairs_are_of_the_test_split():
    assert PAIR.scene == SCENE
    assert PAIR.name == "0005"
    region = object_region(SCENE)
    assert region.shape == (8, 64, 64)
    for t, (x, y) in enumerate(SCENE.centres):
        assert region[t, int(y), int(x)]
    assert 0.02 < region.mean() < 0.25


def test_dilated_mask():
    mask = np.zeros((2, 7, 7), bool)
    mask[0, 3, 3] = mask[1, 0, 6] = True
    dilated = dilate(mask, 2)
    assert dilated[0, 1:6, 1:6].all()
    assert dilated[0].sum() == 25
    assert dilated[1, :3, 4:].all()
    assert dilated[1].sum() == 9


def test_the_truth_is_best(clip_metrics):
    found = clip_metrics["truth"]
    assert found["psnr"] == found["region_psnr"] == 100
    assert found["ssim"] == found["region_ssim"] == pytest.approx(1)
    assert found["end_error"] == found["wrong_way"] == 0
    assert found["trajectory_error"] < 0.4
    assert found["path_ratio"] < 1.02


def test_cross_fade(clip_metrics):
    """The ends are right, the frames between them have two ghosts."""
    found = clip_metrics["cross-fade"]
    assert found["end_error"] == 0
    assert found["region_psnr"] < found["psnr"] - 5
    assert found["mismatch"] > 1.5 * clip_metrics["truth"]["mismatch"]
    assert found["trajectory_error"] > 2


def test_standing_still_is_not_the_wrong_way():
    """A cross-fade shows the object first at its start, then at its end. The tracked position jitters by less than a pixel."""
    found = []
    for pair in of_world(12).pairs:
        clip = pair.read()
        found.append(metrics.clip_metrics(clip, ghost(clip), pair.scene)["wrong_way"])
    assert np.mean(found) < 0.15


def test_clips_with_known_errors(clip_metrics):
    assert clip_metrics["reverse"]["wrong_way"] == 1
    assert clip_metrics["brighter"]["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.2)
    assert clip_metrics["brighter"]["end_error"] == pytest.approx(10, abs=0.3)
    assert clip_metrics["there and back"]["wrong_way"] == pytest.approx(2 / 7)
    assert clip_metrics["there and back"]["path_ratio"] > 2


def test_clips_without_a_scene_have_fewer_metrics():
    found = metrics.clip_metrics(TRUTH, TRUTH)
    assert sorted(found) == ["end_error", "psnr", "ssim"]


def test_frechet_distance_of_normal_distributions():
    """The closed form for diagonal covariances."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 3))
    a, b = x * [1, 2, 3], rng.permutation(x) * [2, 2, 1] + [1, 0, -1]
    assert frechet.distance(a, b) == pytest.approx(2 + 1 + 0 + 4, rel=0.02)
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-9)


def test_features_separate_ghosts_and_blur_from_true_frames():
    """They don't separate other objects, at other positions and in other colours, from true frames."""
    truth = np.stack([pair.read() for pair in of_world(60).pairs])
    ghosts = np.stack([contact_sheet.cross_fade(clip[0], clip[-1], 8) for clip in truth])
    blurred = gaussian_filter(truth, (0, 0, 1, 1, 0))
    others = np.stack([pair.read() for pair in of_world(60, first=60).pairs])
    kinds = {"truth": truth, "ghosts": ghosts, "blurred": blurred, "others": others}
    found = {name: frechet.features(np.concatenate(clips[:, 1:-1])) for name, clips in kinds.items()}
    assert found["truth"].shape == (360, 12)
    away = {name: frechet.distance(found["truth"], features) for name, features in found.items()}
    assert away["others"] < 0.15
    assert min(away["ghosts"], away["blurred"]) > 2 * away["others"]


ALONE = bootstrap.groups_of(range(400))  # a group for each value


def test_intervals():
    """Mean of normal values: the interval is 1.96 standard errors on both sides. A second call gives the same interval."""
    values = np.random.default_rng(1).standard_normal(400)
    found = bootstrap.with_interval(lambda i: float(values[i].mean()), ALONE)
    low, high = found["interval"]
    assert found["mean"] == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap.with_interval(lambda i: float(values[i].mean()), ALONE) == found


def test_pairs_of_one_video_count_as_one():
    """Forty values repeated ten times have the interval of forty values, not of four hundred."""
    values = np.random.default_rng(1).standard_normal(40).repeat(10)

    def width(groups):
        low, high = bootstrap.with_interval(lambda i: float(values[i].mean()), groups)["interval"]
        return high - low

    videos = bootstrap.groups_of([f"video {i // 10}" for i in range(400)])
    assert width(videos) == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.15)
    assert width(ALONE) < 0.4 * width(videos)
    assert len(bootstrap.groups_of(["one"] * 5)) == 5


def test_biased_statistic_lies_in_its_interval():
    pairs = of_world(40).pairs
    features = [np.stack([frechet.features(clip(pair.read())) for pair in pairs]) for clip in (lambda x: x, ghost)]

    def distance(i):
        return frechet.distance(*(np.concatenate(x[i]) for x in features))

    found = bootstrap.with_interval(distance, bootstrap.groups_of(range(40)), 100, biased=True)
    low, high = found["interval"]
    assert 0 < low < found["mean"] < high


def ghost(clip):
    return contact_sheet.cross_fade(clip[0], clip[-1], len(clip))
