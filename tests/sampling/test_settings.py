"""Settings: validation, and guidance scale and fusion weight of each frame."""

from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import FUSIONS, Settings

BAD = {
    "num_frames": [1, 0, -3, 2.5, True, [5], np.array([5])],
    "steps": [0, -1, 1.5, None, "4", np.float32(4)],
    "seed": [-1, 2**32, 0.5, np.bool_(True), np.int64(-1), np.ones((100, 100))],
    "fps": [0, -7, 6.5],
    "recurrence": [-1, 0.5],
    "motion_bucket_id": [-1, float("nan"), float("inf"), True, "127", None, 1j, Fraction(10**400), np.float32("nan")],
    "noise_aug_strength": [-0.1, float("nan"), float("inf")],
    "recurrence_ratio": [-0.1, 1.1, float("nan")],
    "guidance": [
        (3.0, 1.0), (-1.0, 1.0), (1.0, float("nan")), (1.0, float("inf")), (1.0,), (1.0, 2.0, 3.0), 3, None, "13", (True, 3),
        np.array(3), np.array([1.0, np.nan]),
    ],
    "fusion": ["mean", "", None, ["average"], np.array(["average"])],
    "schedule": ["karras", None, ["edm"], 3],
    "prefix": ["", "vibid", ["mpd"], False],
    "prefix_steps": [0, -1, 1.5, True, "3"],
    "prefix_repeats": [0, None, 1.5],
    "guidance_steps": [(2, 2), (3, 1), (-1, 3), (0, 1.5), (1,), (1, 2, 3), 3, "12", (True, 3)],
    "deep_every": [0, -1, None, 2.5],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_values_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=name) as error:
        Settings(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.array, jnp.int32, np.asarray])
def test_numbers_of_numpy_and_jax_become_pythons(number):
    s = Settings(num_frames=number(5), steps=number(4), seed=number(3), fps=number(7), recurrence=number(1))
    assert s == Settings(num_frames=5, steps=4, seed=3, fps=7, recurrence=1)
    assert {type(value) for value in (s.num_frames, s.steps, s.seed, s.fps, s.recurrence)} == {int}
    assert hash(s) == hash(Settings(num_frames=5, steps=4, seed=3, fps=7, recurrence=1))


@pytest.mark.parametrize("number", [np.float32, np.float64, np.array, jnp.float32, Fraction])
def test_real_numbers_of_numpy_and_jax_become_pythons(number):
    s = Settings(motion_bucket_id=number(100), noise_aug_strength=number(0.5), recurrence_ratio=number(0.25))
    assert s == Settings(motion_bucket_id=100, noise_aug_strength=0.5, recurrence_ratio=0.25)
    assert all(type(value) in (int, float) for value in (s.motion_bucket_id, s.noise_aug_strength, s.recurrence_ratio))


@pytest.mark.parametrize(
    "pair", [[1, 2.5], np.array([1, 2.5]), np.float32([1, 2.5]), (np.float32(1), 2.5), jnp.array([1, 2.5])]
)
def test_guidance_is_any_pair(pair):
    s = Settings(guidance=pair)
    assert s.guidance == (1, 2.5)
    assert s.as_text()["guidance"] == "1 2.5"


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


def test_as_text_holds_every_field_that_is_not_none():
    text = Settings(seed=7, guidance=(1.5, 2.0)).as_text()
    assert text["seed"] == "7"
    assert text["guidance"] == "1.5 2"
    optional: dict[str, Any] = {"prefix": "mpd", "prefix_steps": 3, "guidance_steps": (5, 15)}
    assert set(text) == set(Settings.__dataclass_fields__) - set(optional)
    text = Settings(**optional).as_text()
    assert set(text) == set(Settings.__dataclass_fields__)
    assert text["guidance_steps"] == "5 15"


def test_recurrence_ratio_is_a_fraction_of_the_steps_not_of_the_frames():
    plan = run_of("dual", Settings(num_frames=25, steps=10, recurrence=2, recurrence_ratio=0.5), EDMConfig())
    assert len(plan) == 10 + 2 * 5
    assert len(np.unique(plan.sigma)) == 10


def test_limits_that_depend_on_the_steps():
    assert Settings(steps=40, schedule="lcm").steps == 40
    assert Settings(steps=5, guidance_steps=np.array([1, 5]), prefix_steps=5).guidance_steps == (1, 5)
    for given, message in (
        ({"steps": 41, "schedule": "lcm"}, "steps is 41, expected at most 40 with schedule lcm"),
        ({"steps": 5, "prefix_steps": 6}, "prefix_steps is 6, expected a whole number from 1 to 5"),
        ({"steps": 5, "guidance_steps": (0, 6)}, "guidance_steps is .*, expected two whole numbers with 0 <= A < B <= 5"),
    ):
        with pytest.raises(InputError, match=message):
            Settings(**given)
