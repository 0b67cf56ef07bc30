"""Examples of the stages of training from scratch: crops with offsets, and spread noise levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.losses.autoencoding import Autoencoding
from svdjax.losses.training_noise import Noising
from train.steps.settings import PretrainingSettings
from train.steps.unet_stage import spread_noises
from train.steps.vae_stage import crops_with_offsets


@pytest.mark.parametrize("crop", [None, 8])
def test_crops_have_room_for_offsets(crop):
    """The requested share of the clips has offsets, in all directions; without a share there are none."""
    clip = np.full((1, 4, 16, 16, 3), -0.5, np.float32)
    for t in range(4):
        clip[:, t, 4:8, 3 * t : 3 * t + 4] = 0.5
    many = np.tile(clip, (400, 1, 1, 1, 1))
    posterior, keys = np.zeros((400, 4, 8, 8, 1), np.float32), jax.random.split(jax.random.key(0), 400)
    settings = PretrainingSettings(batch_size=400, num_frames=4, size=(16, 16), steps=1, crop=crop)
    taken, noise, offsets = crops_with_offsets(many, posterior, keys, settings, 2)
    assert offsets is None
    assert taken.shape[2:4] == (crop or 16,) * 2
    assert noise.shape[2:4] == (taken.shape[2] // 2,) * 2
    settings = dataclasses.replace(settings, autoencoding=Autoencoding(equivariance=0.5))
    taken, noise, offsets = crops_with_offsets(many, posterior, keys, settings, 2)
    assert taken.shape[2] == (16 if crop is None else crop + 2)
    assert noise.shape[2:4] == (taken.shape[2] // 2 - 1,) * 2
    places, counts = np.unique(offsets, axis=0, return_counts=True)
    np.testing.assert_array_equal(places, [(0, 0), (0, 1), (1, 0), (1, 1)])
    np.testing.assert_allclose(counts / 400, [0.625, 0.125, 0.125, 0.125], atol=0.06)


def test_noise_levels_of_a_batch_are_spread_evenly():
    """One level in each of the 20 equally likely intervals, a clip's levels in each quarter; together they are normal."""
    noising = Noising(log_sigma_mean=0.5, log_sigma_std=2.0)
    settings = PretrainingSettings(batch_size=5, num_frames=2, size=(8, 8), steps=1, noises=4, noising=noising)
    keys = jax.random.split(jax.random.key(0), (100, 5))
    draw = jax.vmap(lambda key, row: spread_noises(key, row, settings, (2, 3)))
    noise, sigma = jax.vmap(lambda keys: draw(keys, jnp.arange(5)))(keys)
    assert noise.shape == (100, 5, 4, 2, 3)
    np.testing.assert_allclose(noise.std(), 1, rtol=0.02)
    levels = (np.log(sigma) - 0.5) / 2
    shares = jax.scipy.special.ndtr(levels)
    np.testing.assert_array_equal(np.floor(shares * 4), np.tile(np.arange(4), (100, 5, 1)))
    np.testing.assert_array_equal(np.sort(np.floor(shares * 20).reshape(100, 20)), np.tile(np.arange(20), (100, 1)))
    np.testing.assert_allclose([levels.mean(), levels.std()], [0, 1], atol=0.05)
