"""The losses of the UNet and the image encoder: denoising, and predicting facts about frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import svd_folders
import training

from svdjax.config import CLIPConfig, UNetConfig
from svdjax.losses.denoising import Noised, denoising_losses
from svdjax.losses.facts import fact_losses
from svdjax.memory.rematerialise import run_plainly
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import random
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.conditioning import embed_images, to_signed_unit


@pytest.fixture(scope="module")
def networks():
    unet = random(UNet, UNetConfig(**svd_folders.UNET | training.UNET, transformer_layers_per_block=1), jnp.float32)
    return unet, random(CLIPVision, CLIPConfig(**svd_folders.CLIP), jnp.float32, seed=1)


def test_denoising_losses(networks):
    unet, image_encoder = networks
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    batch = Noised(
        latents=normal(2, 3, 4, 4, 4),
        noise=normal(2, 3, 4, 4, 4),
        sigma=np.array([0.4, 5.0], np.float32),
        first=normal(2, 16, 16, 3).clip(-1, 1),
        image_latents=normal(2, 4, 4, 4),
        conditional=np.array([1.0, 0.0], np.float32),
        added_time_ids=np.tile(np.array([[6, 127, 0.02]], np.float32), (2, 1)),
    )
    found = jax.jit(lambda *networks: denoising_losses(*networks, batch, run_block=run_plainly))(unet, image_encoder)
    sigma = batch.sigma[:, None, None, None, None]
    noisy = batch.latents + sigma * batch.noise

    def conditioned(values):  # the second clip has no conditioning
        return np.stack([values[0], np.zeros_like(values[1])])

    image = np.broadcast_to(conditioned(batch.image_latents)[:, None], noisy.shape)
    sample = np.concatenate([noisy / np.sqrt(sigma**2 + 1), image], -1)
    embeds = conditioned(np.asarray(embed_images(image_encoder, batch.first)))
    v = jax.jit(lambda unet: unet(sample, edm.c_noise(batch.sigma), embeds, batch.added_time_ids))(unet)
    error = edm.denoise(noisy, v, sigma) - batch.latents
    expected = (np.asarray(error) ** 2).mean((1, 2, 3, 4)) * (1 + batch.sigma**2) / batch.sigma**2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_denoising_with_given_embeddings(networks):
    """The loss is the same with the embedding in place of the first frame, as for a frozen image encoder."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    latents, noise = rng.standard_normal((2, 2, 3, 4, 4, 4), np.float32)
    image_latents = rng.standard_normal((2, 4, 4, 4), np.float32)
    conditional, ids = np.array([1.0, 0.0], np.float32), np.tile(np.array([[6, 127, 0.02]], np.float32), (2, 1))

    @functools.partial(jax.jit, static_argnames="frozen")
    def losses(unet, image_encoder, frozen):
        shown = embed_images(image_encoder, first) if frozen else first
        batch = Noised(
            latents=latents,
            noise=noise,
            sigma=np.array([0.4, 5.0], np.float32),
            first=shown,
            image_latents=image_latents,
            conditional=conditional,
            added_time_ids=ids,
        )
        return denoising_losses(unet, None if frozen else image_encoder, batch, run_block=run_plainly)

    np.testing.assert_allclose(losses(*networks, True), losses(*networks, False), rtol=1e-5)


def test_fact_losses(networks):
    """The mean squared error of a linear head on the embedding of each frame, per clip."""
    _, image_encoder = networks
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    facts = rng.standard_normal((2, 3, 5), np.float32)
    embeds = np.asarray(embed_images(image_encoder, to_signed_unit(jnp.asarray(clips.reshape(6, 16, 16, 3)))))[:, 0]
    kernel, bias = rng.standard_normal((embeds.shape[1], 5), np.float32), rng.standard_normal(5, np.float32)
    expected = np.square((embeds @ kernel + bias).reshape(2, 3, 5) - facts).mean((1, 2))
    np.testing.assert_allclose(fact_losses(image_encoder, kernel, bias, clips, facts), expected, rtol=1e-4)
