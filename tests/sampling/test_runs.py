"""The updates of each method: noise levels, added noise, cost, calls of programs."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.config import EDMConfig
from svdjax.errors import InputError
from svdjax.sampling import methods
from svdjax.sampling.edm import AYS, ays_sigmas, karras_sigmas, lcm_sigmas
from svdjax.sampling.methods import METHODS, parse_name, run_of, settings_of
from svdjax.sampling.runs import Run
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import BACKWARD, FORWARD, bridge, euler

EDM = EDMConfig()


def run(name: str, **given) -> Run:
    method, fields = parse_name(name)
    return run_of(method, settings_of(method, {**fields, **given}, {}), EDM)


def test_repeated_steps_add_noise():
    plan = run("dual", steps=5, recurrence=2, recurrence_ratio=0.5)
    sigmas = karras_sigmas(5, EDM)
    # int(5 * 0.5) = 2 steps, three times each
    np.testing.assert_array_equal(plan.sigma, sigmas[[0, 0, 0, 1, 1, 1, 2, 3, 4]])
    np.testing.assert_array_equal(plan.sigma_next, sigmas[[1, 1, 1, 2, 2, 2, 3, 4, 5]])
    first, second = np.sqrt(sigmas[:2] ** 2 - sigmas[1:3] ** 2)
    np.testing.assert_array_equal(plan.renoise, [0, first, first, 0, second, second, 0, 0, 0])
    assert plan.recurrences == 4


def test_the_last_step_can_be_repeated():
    plan = run("dual", steps=2, recurrence=1, recurrence_ratio=1.0)
    assert len(plan) == 4
    np.testing.assert_allclose(plan.renoise[-1], karras_sigmas(2, EDM)[1])


# evaluations and clips of the official scripts; draws
COSTS = {
    "dual": (50, 200, 0),
    "forward": (50, 100, 0),
    "vibid": (25, 100, 25),
    "mpd+vibid": (33, 130, 40),
    "trf-shipped": (55, 220, 1),
    "mpd+dual": (20, 80, 15),
    "mpd+trf": (20, 80, 15),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_with_the_methods_own_settings(name):
    plan = run(name)
    assert (plan.evaluations, plan.passes, plan.recurrences) == COSTS[name]


def test_official_settings_of_dual():
    plan = run("dual", recurrence=5)
    assert (plan.evaluations, plan.passes) == (175, 700)


def test_vibid_takes_half_a_step_in_each_direction():
    plan, sigmas = run("vibid", steps=4), karras_sigmas(4, EDM)
    np.testing.assert_array_equal(plan.sigma, sigmas[[0, 0, 1, 1, 2, 2, 3, 3]])
    assert [update.direction for update in plan.updates] == [FORWARD, BACKWARD] * 4
    between = np.sqrt(sigmas[:-1] ** 2 - sigmas[1:] ** 2)
    np.testing.assert_array_equal(plan.renoise, np.stack([0 * between, between], 1).ravel())
    assert len(set(plan.kinds)) == 1


def test_mpd_comes_before_the_early_steps_at_their_level():
    plan = run("mpd+vibid", steps=6, prefix_repeats=2)
    assert [(u.start, u.direction, u.numbers["shift"]) for u in plan.updates[:9]] == [
        (0, FORWARD, 1), (0, FORWARD, 1), (0, FORWARD, 0), (0, BACKWARD, 0),
        (1, FORWARD, 1), (1, FORWARD, 1), (1, FORWARD, 0), (1, BACKWARD, 0),
        (2, FORWARD, 0),
    ]  # fmt: skip
    assert len(set(plan.kinds)) == 1  # one program
    dual = run("mpd+dual", steps=10, recurrence=1, prefix_steps=1)
    assert [u.step for u in dual.updates[:6]] == [bridge, bridge, bridge, euler, euler, euler]
    assert [u.start for u in dual.updates[:6]] == [0, 0, 0, 0, 0, 1]
    assert (dual.renoise[:6] > 0).tolist() == [False, True, True, True, True, False]


def test_the_shipped_trf_jumps_once():
    plan, sigmas = run("trf-shipped", steps=12), karras_sigmas(12, EDM)
    assert [u.start for u in plan.updates] == [*range(10), *range(5, 12)]
    assert np.flatnonzero(plan.renoise).tolist() == [10]
    np.testing.assert_allclose(plan.renoise[10] ** 2, sigmas[5] ** 2 - sigmas[10] ** 2)
    with pytest.raises(InputError, match="steps is 9, expected at least 10"):
        run("trf-shipped", steps=9)


def test_lcm_goes_to_the_denoised_latents_and_adds_noise():
    plan = run("dual", schedule="lcm", steps=4)
    np.testing.assert_allclose(plan.sigma, [700, 128.564, 13.678, 0.497], rtol=1e-3)
    np.testing.assert_array_equal(plan.sigma_next, 0)
    np.testing.assert_array_equal(plan.renoise, [0, *plan.sigma[1:]])
    default = settings_of("dual", {"schedule": "lcm"}, {"steps": 10, "recurrence": 3})
    assert (default.steps, default.guidance, default.recurrence) == (8, (1, 1), 0)
    np.testing.assert_allclose(
        lcm_sigmas(8, EDM), [700, 315.737, 128.564, 45.851, 13.678, 3.167, 0.497, 0.040, 0], rtol=1e-3, atol=5e-4
    )


def test_ays_levels():
    np.testing.assert_allclose(ays_sigmas(10, EDM), [*AYS[:-1], 0])
    twenty = ays_sigmas(20, EDM)
    np.testing.assert_allclose(twenty[::2], [*AYS[:-1], 0])
    np.testing.assert_allclose(twenty[1:-1:2], np.sqrt(AYS[1:] * AYS[:-1]))
    other = ays_sigmas(10, EDMConfig(sigma_min=0.01, sigma_max=80.0))
    logs, table = np.log(other[:-1]), np.log(AYS[:-1])
    assert other[0] == pytest.approx(80)
    np.testing.assert_allclose(np.diff(logs) / np.diff(table), np.log(80 / 0.01) / np.log(700 / 0.002))


def test_explicit_settings_win_over_the_methods():
    given = settings_of("vibid", {"steps": 7}, {"steps": 10, "recurrence": 3, "num_frames": 8})
    assert (given.steps, given.recurrence, given.guidance, given.num_frames) == (7, 0, (1, 1), 8)
    given = settings_of("trf", {"prefix": "mpd", "guidance": (1, 3)}, {"steps": 10, "recurrence": 3})
    assert (given.steps, given.recurrence, given.guidance) == (25, 0, (1, 3))
    assert settings_of("trf", {}, {"steps": 10, "recurrence": 3}).recurrence == 3


def test_guidance_in_part_of_the_steps_costs_less():
    plan = run("dual", steps=10, guidance_steps=(2, 5))
    assert [kind.guided for kind in plan.kinds] == [False] * 2 + [True] * 3 + [False] * 5
    assert (plan.evaluations, plan.passes) == (7, 7 * 2 + 3 * 4)
    # ViBiD predicts without conditioning anyway
    plan = run("vibid", steps=4, guidance=(1, 3), guidance_steps=(0, 2))
    assert [kind.guided for kind in plan.kinds] == [True] * 4 + [False] * 4
    assert all(kind.unconditional for kind in plan.kinds)


def test_deep_features_are_reused_within_their_steps():
    def deep(name: str, **given) -> str:
        return "".join(kind.deep[1] for kind in run(name, **given).kinds)  # s[t]ore, r[e]use

    assert deep("dual", steps=7, deep_every=3) == "teeteet"
    assert deep("dual", steps=4, recurrence=1, deep_every=2) == "tteete"
    assert deep("vibid", steps=3, deep_every=2) == "tteett"
    # the first step with guidance, and the first without it afterwards, have no features of the same clips
    assert deep("dual", steps=8, guidance_steps=(2, 5), deep_every=4) == "tetettee"
    # after the jump, features of later steps are not used
    assert deep("trf-shipped", steps=11, deep_every=4)[10:12] == "te"
    assert run("dual", steps=7, deep_every=3).reused == 4
    assert set(run("dual", deep_every=1).kinds) == set(run("dual").kinds)


def test_each_kind_has_calls_of_one_length():
    for name, given in {
        "dual": {"recurrence": 3, "steps": 10},
        "vibid": {},
        "mpd+dual": {"recurrence": 1},
        "mpd+trf": {"guidance": (1, 3), "guidance_steps": (5, 15)},
        "trf": {"deep_every": 3},
    }.items():
        plan = run(name, **given)
        for segments in (1, 20):
            calls = plan.calls(segments)
            assert [k for start, stop in calls for k in range(start, stop)] == list(range(len(plan)))
            lengths: dict = {}
            for start, stop in calls:
                assert len(set(plan.kinds[start:stop])) == 1
                lengths.setdefault(plan.kinds[start], set()).add(stop - start)
            assert all(len(found) == 1 for found in lengths.values())
    assert len(run("dual").calls(1)) == 1
    assert run("dual", steps=4, recurrence=1).calls(4) == [(0, 2), (2, 4), (4, 6)]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_run(name):
    plan = run(name)
    assert plan.sigma_next[-1] == 0
    assert plan.done[-1] == plan.evaluations


def test_names():
    assert parse_name("mpd+vibid") == (METHODS["vibid"], {"prefix": "mpd"})
    assert parse_name("trf") == (METHODS["trf"], {})
    for name, message in {
        "x+dual": "prefix is 'x', expected one of None, mpd",
        "mpd+x": "method 'x': unknown",
        "mpd+forward": "prefix mpd: method forward doesn't lead to the last keyframe",
    }.items():
        with pytest.raises(InputError, match=message.replace("+", r"\+")):
            parse_name(name)


def test_without_backward_weights_a_training_free_method_is_chosen():
    assert methods.chosen_method(None, None, {"steps": 3}) == (METHODS["vibid"], {"prefix": "mpd", "steps": 3})
    assert methods.chosen_method(None, ["to_v"], {"steps": 3}) == (METHODS["dual"], {"steps": 3})
    assert methods.chosen_method("dual", None, {}) == (METHODS["dual"], {})
    assert Settings().prefix is None
