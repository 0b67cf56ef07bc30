"""The VAE's loss: reconstruction terms, shifted latents, crops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.losses import autoencoding
from svdjax.losses.autoencoding import Autoencoding, crop_around_motion, crop_at, reconstruct, shift

NO_TERMS = Autoencoding(moving=0, edges=0, divergence=0)


class Blurred:
    """A stand-in for the VAE: latents are the image, and the decoded image is darker by `error`."""

    def __init__(self, error, logvar=-30.0):
        self.error, self.logvar = error, logvar

    def encode(self, images):
        return images, jnp.full_like(images, self.logvar)

    def decode(self, latents):
        return latents - self.error


@pytest.fixture(scope="module")
def clips():
    """A square moves over a still background; b=2."""
    clips = np.full((2, 4, 16, 16, 3), -0.5, np.float32)
    for t in range(4):
        clips[:, t, 4:8, 3 * t : 3 * t + 4] = 0.5
    return clips


def test_terms_of_the_reconstruction(clips):
    noise = np.zeros_like(clips)
    exact = reconstruct(Blurred(0.0), clips, noise, NO_TERMS)
    np.testing.assert_allclose(exact.loss, 0, atol=1e-6)
    found = reconstruct(Blurred(0.1), clips, noise, NO_TERMS)
    np.testing.assert_allclose(found.loss, 0.1, rtol=1e-5)
    np.testing.assert_allclose(found.psnr, 20 * np.log10(2 / 0.1), rtol=1e-5)
    # a constant error has no edges; an error at a moving pixel counts five times
    np.testing.assert_allclose(reconstruct(Blurred(0.1), clips, noise, Autoencoding(divergence=0)).loss, 0.1, rtol=1e-5)
    mask = np.asarray(autoencoding.motion(jnp.asarray(clips[0])))
    still, moved = np.zeros_like(clips[0]), np.zeros_like(clips[0])
    still[:, 12, 12], moved[1, 5, 5] = 0.4, 4 * 0.4
    assert mask[:, 12, 12].max() == 0
    assert mask[1, 5, 5] == 1
    weighted = Autoencoding(edges=0, divergence=0)
    ratio = [reconstruct(Blurred(error), clips, noise, weighted).loss[0] for error in (moved, still)]
    np.testing.assert_allclose(ratio[0] / ratio[1], 5, rtol=1e-4)
    assert reconstruct(Blurred(moved), clips, noise, Autoencoding(divergence=0)).loss[0] > 1.5 * ratio[0]
    # divergence from the unit normal distribution
    latents = np.random.default_rng(0).standard_normal(clips.shape, np.float32)
    unit = [reconstruct(Blurred(0.0, v), latents, noise, Autoencoding(0, 0, 1.0)).loss for v in (0.0, -4.0)]
    np.testing.assert_allclose(unit[0], 0.5 * np.square(latents).mean((1, 2, 3, 4)), rtol=1e-4)
    np.testing.assert_allclose(unit[1] - unit[0], 0.5 * (np.exp(-4) - 1 + 4), rtol=1e-4)


def test_the_posterior_is_sampled(clips):
    noise = np.ones_like(clips)
    found = reconstruct(Blurred(0.0, np.log(0.01)), clips, noise, NO_TERMS)
    np.testing.assert_allclose(found.loss, 0.1, rtol=1e-4)


def test_a_frozen_encoder_has_no_gradient(clips):
    """Neither from the error nor from the divergence."""

    class Shifted(Blurred):
        def encode(self, images):
            return images + self.error, jnp.zeros_like(images)

        def decode(self, latents):
            return 2 * latents

    def loss(error, freeze):
        return reconstruct(Shifted(error), clips, np.zeros_like(clips), Autoencoding(), freeze_encoder=freeze).loss.sum()

    assert abs(jax.grad(loss)(0.1, False)) > 0.1
    assert jax.grad(loss)(0.1, True) == 0


class Halved:
    """A stand-in for the VAE: a latent is the pixel at its corner, and the decoded image has the slope of the ramp."""

    def encode(self, images):
        return images[:, ::2, ::2], jnp.full_like(images[:, ::2, ::2], -30.0)

    def decode(self, latents):
        return latents.repeat(2, 2).repeat(2, 3) + jnp.tile(jnp.array([0.0, 0.1]), latents.shape[3])[:, None]


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_shifted_latents_decode_to_the_shifted_clip(offset):
    """Exactly, on a ramp that another shift would change."""
    ramp = np.tile(np.arange(8, dtype=np.float32)[:, None] / 10 - 0.5, (2, 3, 8, 1, 1))
    noise = np.zeros((2, 3, 3, 3, 1), np.float32)
    offsets = jnp.array([offset, (0, 0)])
    found = reconstruct(Halved(), ramp, noise, NO_TERMS, offsets=offsets)
    np.testing.assert_allclose(found.loss, 0, atol=1e-6)
    assert crop_at(jnp.asarray(ramp[0]), offsets[0], (6, 6)).shape == (3, 6, 6, 1)
    np.testing.assert_allclose(crop_at(jnp.asarray(ramp[0]), offsets[0], (6, 6))[0, 0, 0, 0], -0.5 + offset[1] / 10)
    down = jnp.asarray(ramp.swapaxes(2, 3))[0]
    np.testing.assert_allclose(shift(down, jnp.array([0.25, 0.75]))[0, :, 0, 0], np.arange(7) / 10 - 0.475, rtol=1e-5)


def test_crops_follow_motion(clips):
    """The square moves over the upper half: most crops show it, a few do not; every frame has the same crop."""
    crops = jax.vmap(crop_around_motion, (None, 0, None))(clips[0], jax.random.split(jax.random.key(0), 200), 8)
    assert crops.shape == (200, 4, 8, 8, 3)
    seen = np.asarray((crops > 0).any((1, 2, 3, 4)))
    assert 0.8 < seen.mean() < 1
    positions = clips[0].copy()
    positions[..., 0] = np.arange(16)[:, None] / 100
    taken = np.asarray(crop_around_motion(jnp.asarray(positions), jax.random.key(1), 8))
    assert (taken[..., 0] == taken[:1, :, :1, 0]).all()
    np.testing.assert_allclose(np.diff(taken[0, :, 0, 0]), 0.01, atol=1e-6)
