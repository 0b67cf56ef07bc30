"""Noise levels, preconditioning and the schedule, against the official scheduler and identities of EDM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.config import EDMConfig
from svdjax.sampling import edm


@pytest.mark.parametrize("steps", [4, 25, 50])
def test_sigmas_equal_the_official_scheduler(steps, pipeline_data):
    sigmas = edm.karras_sigmas(steps, EDMConfig())
    # the official sigmas are float32
    np.testing.assert_allclose(sigmas, pipeline_data[f"sigmas/{steps}"], rtol=3e-7)
    np.testing.assert_allclose(edm.c_noise(sigmas[:-1]), pipeline_data[f"timesteps/{steps}"], rtol=1e-6)


def test_one_step_starts_at_sigma_max():
    np.testing.assert_allclose(edm.karras_sigmas(1, EDMConfig()), [700.0, 0.0])


@pytest.mark.parametrize("sigma", [0.002, 1.0, 700.0])
def test_preconditioning_inverts_the_v_target(sigma):
    """Denoising with v = (noise - sigma clean) / sqrt(sigma^2 + 1) returns the clean latents."""
    with jax.enable_x64(True):
        clean, noise = np.random.default_rng(0).standard_normal((2, 8))
        noisy = clean + sigma * noise
        v = (noise - sigma * clean) / np.sqrt(sigma**2 + 1)
        np.testing.assert_allclose(edm.denoise(noisy, v, jnp.asarray(sigma)), clean, atol=1e-9)
        # the input has unit variance if the data has
        assert edm.c_in(sigma) ** 2 * (1 + sigma**2) == pytest.approx(1)


def test_error_of_v_is_the_official_loss():
    """The official loss is the weighted error of the denoised latents."""
    latents, noise, v = np.random.default_rng(1).standard_normal((3, 8))
    for sigma in (0.01, 0.7, 30.0):
        target = (noise - sigma * latents) * edm.c_in(sigma)
        error = edm.denoise(latents + sigma * noise, v, sigma) - latents
        np.testing.assert_allclose(error**2 * (1 + sigma**2) / sigma**2, (v - target) ** 2, rtol=1e-4)


def test_euler_step_to_zero_is_the_denoised_image():
    noisy, denoised = np.random.default_rng(0).standard_normal((2, 8))
    np.testing.assert_allclose(edm.euler_step(noisy, denoised, 3.0, 0.0), denoised, atol=1e-12)
    np.testing.assert_allclose(edm.euler_step(noisy, denoised, 3.0, 3.0), noisy)
