"""Random draws: from one seed per pair, independent of the batch, or from a file."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.errors import InputError
from svdjax.memory.programs import bytes_of
from svdjax.models.svd import abstract_model
from svdjax.presets import TINY
from svdjax.sampling.clip_work import ClipWork, sample_programs
from svdjax.sampling.draws import Draws, draw, joined, load_draws
from svdjax.sampling.settings import Settings

IMAGE, LATENT = (16, 24, 3), (3, 2, 3, 4)


def test_the_same_seed_gives_the_same_draws():
    a, b, other = (draw([seed], IMAGE, LATENT) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a.initial, b.initial)
    np.testing.assert_array_equal(a.recurrence_noise(2), b.recurrence_noise(2))
    assert not np.array_equal(a.initial, other.initial)
    assert not np.array_equal(a.recurrence_noise(2), other.recurrence_noise(2))


def test_draws_of_a_pair_do_not_depend_on_the_batch():
    both, second = draw([1, 2], IMAGE, LATENT), draw([2], IMAGE, LATENT)
    np.testing.assert_array_equal(both.augmentation[1], second.augmentation[0])
    np.testing.assert_array_equal(both.initial[1], second.initial[0])
    np.testing.assert_array_equal(both.recurrence_noise(3)[1], second.recurrence_noise(3)[0])


def test_draws_are_standard_normal_and_independent():
    d = draw([0], (64, 64, 3), (8, 16, 16, 4))
    draws = [d.augmentation, d.initial, d.recurrence_noise(0), d.recurrence_noise(1)]
    for x in draws:
        # four standard errors of 8,192 draws, the fewest
        assert abs(float(x.mean())) < 0.045
        assert abs(float(x.std()) - 1) < 0.032
    correlation = np.corrcoef(np.stack([np.ravel(x)[:8192] for x in draws]))
    assert np.abs(correlation - np.eye(4)).max() < 0.05


def save(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "augmentation": rng.standard_normal(IMAGE),
        "initial": rng.standard_normal(LATENT),
        "recurrence": rng.standard_normal((2, *LATENT)),
    } | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def test_a_file_replaces_every_draw(tmp_path):
    arrays = save(tmp_path / "n.npz")
    d = load_draws(tmp_path / "n.npz", IMAGE, LATENT, 2)
    np.testing.assert_allclose(d.augmentation[0], arrays["augmentation"], rtol=1e-6)
    np.testing.assert_allclose(d.initial[0], arrays["initial"], rtol=1e-6)
    np.testing.assert_allclose(d.recurrence_noise(jnp.asarray(1))[0], arrays["recurrence"][1], rtol=1e-6)


def test_noise_of_a_raised_rate(tmp_path):
    """From the seed of each pair, or from the file; a file's is ignored if the rate is not raised, and needed if it is."""
    one, two, both = (draw(seeds, IMAGE, LATENT) for seeds in ([1], [2], [1, 2]))
    expected = np.concatenate([one.rate_noise(5), two.rate_noise(5)])
    assert not np.array_equal(*expected)
    for draws in (both, joined([one, two])):
        np.testing.assert_array_equal(draws.rate_noise(5), expected)
    noise = np.random.default_rng(1).standard_normal((5, *LATENT[1:]))
    save(tmp_path / "n.npz", rate=noise)
    np.testing.assert_allclose(load_draws(tmp_path / "n.npz", IMAGE, LATENT, 2, 5).rate_noise(5)[0], noise, rtol=1e-6)
    assert load_draws(tmp_path / "n.npz", IMAGE, LATENT, 2).rate is None
    with pytest.raises(InputError, match=r"n.npz: rate has shape \(5, 2, 3, 4\), expected \(9, 2, 3, 4\)"):
        load_draws(tmp_path / "n.npz", IMAGE, LATENT, 2, 9)
    save(tmp_path / "n.npz")
    with pytest.raises(InputError, match=r"n.npz: no array 'rate', expected one of shape \(5, 2, 3, 4\)"):
        load_draws(tmp_path / "n.npz", IMAGE, LATENT, 2, 5)


@pytest.mark.parametrize("recurrence", [None, np.zeros(0), np.zeros((0, *LATENT))])
def test_recurrence_may_be_missing_or_empty_if_no_step_is_repeated(tmp_path, recurrence):
    save(tmp_path / "n.npz", recurrence=recurrence)
    load_draws(tmp_path / "n.npz", IMAGE, LATENT, 0)


@pytest.mark.parametrize(
    ("changes", "recurrences", "message"),
    [
        ({"initial": None}, 2, "initial"),
        ({"recurrence": None}, 2, "recurrence"),
        ({}, 3, "recurrence has shape"),
        ({"initial": np.zeros((1, *LATENT))}, 2, "initial has shape"),
        ({"initial": np.full(LATENT, np.nan)}, 2, "not finite"),
        ({"initial": np.zeros(LATENT, int)}, 2, "not finite"),
        ({"augmentation": np.zeros((24, 16, 3))}, 2, "augmentation has shape"),
        ({"inital": np.zeros(LATENT)}, 2, "unknown array 'inital'"),
    ],
)
def test_files_with_wrong_arrays_are_refused_in_one_line(tmp_path, changes, recurrences, message):
    save(tmp_path / "n.npz", **changes)
    with pytest.raises(InputError, match=message) as error:
        load_draws(tmp_path / "n.npz", IMAGE, LATENT, recurrences)
    assert "n.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "one.npy", "empty.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            load_draws(tmp_path / name, IMAGE, LATENT, 0)


def test_given_draws_are_planned_for():
    """Noise from a file is an argument of the step, instead of the keys that a seed gives."""
    seeded = ClipWork(
        model=abstract_model(TINY, "float32"), size=(64, 64), settings=Settings(num_frames=8, steps=4, recurrence=2)
    )
    augmentation, initial = np.zeros((1, *seeded.image_shape)), np.zeros((1, *seeded.latent_shape))
    noise = np.zeros((seeded.run.recurrences, *initial.shape))
    draws = Draws(*(jnp.asarray(x, jnp.float32) for x in (augmentation, initial, noise)))
    sizes = [bytes_of(sample_programs(work, "together")[0][0].args) for work in (seeded, replace(seeded, draws=draws))]
    assert noise.shape[0] > 1
    assert sizes[1] - sizes[0] == draws.recurrence.nbytes - 16  # two keys of 8 bytes
