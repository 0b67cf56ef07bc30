"""Settings: validation, and guidance scale and fusion weight of each frame."""

import numpy as np
import pytest

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.sampling.settings import FUSIONS, Settings

BAD = {
    "num_frames": [1, 0, -3, 2.5, True],
    "steps": [0, -1, 1.5],
    "seed": [-1, 2**32, 0.5],
    "fps": [0, -7, 6.5],
    "recurrence": [-1, 0.5],
    "motion_bucket_id": [-1, float("nan"), float("inf")],
    "noise_aug_strength": [-0.1, float("nan"), float("inf")],
    "recurrence_ratio": [-0.1, 1.1, float("nan")],
    "guidance": [(3.0, 1.0), (-1.0, 1.0), (1.0, float("nan")), (1.0, float("inf")), (1.0,), (1.0, 2.0, 3.0)],
    "fusion": ["mean", ""],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=name) as error:
        Settings(**{name: value})
    assert "\n" not in str(error.value)


def test_average_fusion_uses_the_mean_guidance():
    s = Settings(num_frames=5, guidance=(1.0, 3.0))
    np.testing.assert_array_equal(s.guidance_scale(), [2, 2, 2, 2, 2])
    np.testing.assert_array_equal(s.forward_weight(), [0.5] * 5)


def test_linear_fusion_ramps():
    s = Settings(num_frames=5, guidance=(1.0, 3.0), fusion="linear")
    np.testing.assert_array_equal(s.guidance_scale(), [1, 1.5, 2, 2.5, 3])
    np.testing.assert_array_equal(s.forward_weight(), [1, 0.75, 0.5, 0.25, 0])


def test_one_direction_ramps_whatever_the_fusion_is():
    for fusion in FUSIONS:
        s = Settings(num_frames=5, guidance=(1.0, 3.0), fusion=fusion)
        np.testing.assert_array_equal(s.guidance_scale(directions=1), [1, 1.5, 2, 2.5, 3])


def test_as_text_holds_every_field():
    text = Settings(seed=7, guidance=(1.5, 2.0)).as_text()
    assert text["seed"] == "7"
    assert text["guidance"] == "1.5 2"
    assert set(text) == set(Settings.__dataclass_fields__)


def test_recurrence_ratio_is_a_fraction_of_the_steps_not_of_the_frames():
    plan = Settings(num_frames=25, steps=10, recurrence=2, recurrence_ratio=0.5).schedule(EDMConfig())
    assert len(plan) == 10 + 2 * 5
    assert len(np.unique(plan.sigma)) == 10
