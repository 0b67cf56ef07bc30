"""Arguments of the public functions: checked before any sampling, and taken as NumPy users pass them."""

from __future__ import annotations

import dataclasses

import goldens
import jax.numpy as jnp
import numpy as np
import pytest

import svdjax
from svdjax.sampling import generation
from svdjax.sampling.checks import check_draws, decode_chunk_of
from svdjax.sampling.draws import Draws, draw
from svdjax.scalars import real_number, whole_number

IMAGE, LATENT = (64, 64, 3), (5, 16, 16, 4)


@pytest.fixture
def model(monkeypatch):
    """Model A, which must not sample."""

    def sample(*args, **kwargs):
        raise AssertionError("sampled before the check")

    for name in ("condition_on", "sample"):
        monkeypatch.setattr(generation, name, sample)
    return goldens.svd()


PICTURE = np.zeros(IMAGE, np.uint8)
REFUSED = {
    "decode_chunk": [(0, "0"), (True, "True"), ("all", "'all'"), (2.0, "2.0")],
    "progress": [(3, "a int, expected a function of ")],
    "draws": [(3, "a int, expected svdjax.Draws, or None"), (np.zeros(3), "a ndarray, expected svdjax.Draws")],
    "seed": [(-1, "-1"), (np.float32(1), "1.0")],
}


@pytest.mark.parametrize(("name", "value", "found"), [(name, *case) for name, cases in REFUSED.items() for case in cases])
def test_refused_before_sampling(model, name, value, found):
    calls = {
        "interpolate": lambda: svdjax.interpolate(model, PICTURE, PICTURE, method="trf", **{name: value}),
        "animate": lambda: svdjax.animate(model, PICTURE, **{name: value}),
    }
    for call in calls.values():
        with pytest.raises(svdjax.InputError) as error:
            call()
        assert str(error.value).startswith(f"{name} is {found}")


def test_refused_keyframes_methods_and_models(model):
    batch = PICTURE[None]
    for call, message in (
        (lambda: svdjax.interpolate("embedded", PICTURE, PICTURE), "model is a str, expected a model from svdjax.load"),
        (lambda: svdjax.animate(None, PICTURE), "model is a NoneType, expected a model from svdjax.load"),
        (lambda: svdjax.interpolate(model, PICTURE, PICTURE, method=["trf"]), "method ['trf']: unknown, expected one of dual"),
        (lambda: svdjax.interpolate(model), "0 keyframes given, expected at least two"),
        (lambda: svdjax.interpolate(model, [PICTURE, PICTURE]), "keyframe 1 is a list, expected a uint8 array"),
        (lambda: svdjax.interpolate(model, PICTURE, batch), "keyframe 2 has shape (1, 64, 64, 3), keyframe 1 (64, 64, 3)"),
        (lambda: svdjax.interpolate(model, PICTURE, PICTURE, PICTURE[:60]), "keyframe 3 is 64x60, expected multiples of 64"),
        (lambda: svdjax.interpolate(model, batch[:0], batch[:0]), "keyframe 1 is an empty batch"),
        (lambda: svdjax.animate(model, PICTURE / 255), "image is float64 (64, 64, 3), expected uint8"),
        (lambda: svdjax.load("embedded", dtype="float31"), "dtype is 'float31', expected a floating point type"),
        (lambda: svdjax.load("embedded", dtype=int), "dtype is <class 'int'>, expected a floating point type"),
    ):
        with pytest.raises(svdjax.InputError) as error:
            call()
        assert str(error.value).startswith(message)


def test_draws_of_another_shape():
    good = draw([1, 2], IMAGE, LATENT)
    check_draws(good, 2, IMAGE, LATENT, 3)  # keys serve any number of recurrences
    noise = Draws(good.augmentation, good.initial, jnp.zeros((3, 2, *LATENT)))
    check_draws(noise, 2, IMAGE, LATENT, 3)
    for draws, batch, recurrences, message in (
        (good, 1, 0, r"draws.augmentation has shape \(2, 64, 64, 3\), expected \(1, 64, 64, 3\)"),
        (noise, 2, 4, r"draws.recurrence has shape \(3, 2, 5, 16, 16, 4\), expected \(4, 2, 5, 16, 16, 4\), or keys"),
        (Draws(good.augmentation, good.initial[:, :4], good.recurrence), 2, 0, r"draws.initial has shape \(2, 4, 16, 16, 4\)"),
    ):
        with pytest.raises(svdjax.InputError, match=f"^{message}"):
            check_draws(draws, batch, IMAGE, LATENT, recurrences)
    check_draws(good, 2, IMAGE, LATENT, 0, 9)
    rate = np.zeros((2, 8, *LATENT[1:]))
    for draws, found in ((noise, "is None"), (dataclasses.replace(good, rate=rate), r"has shape \(2, 8, 16, 16, 4\)")):
        with pytest.raises(svdjax.InputError, match=rf"^draws.rate {found}, expected shape \(2, 9, 16, 16, 4\), or keys"):
            check_draws(draws, 2, IMAGE, LATENT, 0, 9)


@pytest.mark.parametrize("seeds", [np.array([1, 2]), (np.int64(1), 2), jnp.array([1, 2]), np.uint8([1, 2])])
def test_seeds_of_numpy_and_jax(seeds):
    expected, given = draw([1, 2], IMAGE, LATENT), draw(seeds, list(IMAGE), np.array(LATENT))
    np.testing.assert_array_equal(given.initial, expected.initial)
    np.testing.assert_array_equal(given.augmentation, expected.augmentation)


@pytest.mark.parametrize("seeds", [3, [], [-1], [2**32], [0.5], [True], np.array([[1]]), "12", None])
def test_refused_seeds(seeds):
    with pytest.raises(svdjax.InputError, match=r"^seeds are .*, expected whole numbers from 0 to 4294967295 in a list$"):
        draw(seeds, IMAGE, LATENT)


def test_numbers():
    assert [whole_number(x) for x in (3, np.int8(3), np.array(3), jnp.uint8(3), decode_chunk_of(np.int64(3)))] == [3] * 5
    assert [whole_number(x) for x in (True, 3.0, "3", [3], np.array([3]), None, np.True_)] == [None] * 7
    assert [real_number(x) for x in (2, 2.0, np.float16(2), np.array(2.0), jnp.float32(2))] == [2] * 5
    assert [real_number(x) for x in (False, "2", float("inf"), float("nan"), 10**400, 1j, [2.0], None)] == [None] * 8
    assert decode_chunk_of(None) is None


@pytest.mark.parametrize(
    ("option", "message"),
    [({"segments": value}, "segments is ") for value in (0, True, 2.0, "2")]
    + [({"progress": 3}, "progress is a int, expected")],
)
def test_the_sampler_checks_its_options_first(option, message):
    with pytest.raises(svdjax.InputError, match=f"^{message}"):
        svdjax.sample(None, None, None, None, scheduler=None, **option)
