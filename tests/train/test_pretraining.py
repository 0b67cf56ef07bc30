"""Training from scratch as functions: the losses, the mean of the weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import svd_folders
import training

from svdjax.config import CLIPConfig, UNetConfig
from svdjax.losses import autoencoding
from svdjax.losses.autoencoding import Autoencoding, crop, move, part, reconstruct
from svdjax.losses.denoising import Noised, denoising_losses
from svdjax.losses.facts import fact_losses
from svdjax.losses.finetuning import Noising
from svdjax.memory.rematerialise import run_plainly
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import random
from svdjax.models.unet import UNet
from svdjax.sampling import edm
from svdjax.sampling.conditioning import embed_images, to_signed_unit
from train.steps.optimizer import averaged
from train.steps.pretraining import noises, to_reconstruct
from train.steps.settings import PretrainingSettings

NO_TERMS = Autoencoding(moving=0, edges=0, divergence=0)


class Blurred:
    """In place of a VAE: latents are the image, and what comes back is darker by `error`."""

    def __init__(self, error, logvar=-30.0):
        self.error, self.logvar = error, logvar

    def encode(self, images):
        return images, jnp.full_like(images, self.logvar)

    def decode(self, latents):
        return latents - self.error


@pytest.fixture(scope="module")
def clips():
    """One square moves over a still background; b=2."""
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
    # a constant error has no edges; an error where it moves counts five times
    np.testing.assert_allclose(reconstruct(Blurred(0.1), clips, noise, Autoencoding(divergence=0)).loss, 0.1, rtol=1e-5)
    mask = np.asarray(autoencoding.moving(jnp.asarray(clips[0])))
    still, moved = np.zeros_like(clips[0]), np.zeros_like(clips[0])
    still[:, 12, 12], moved[1, 5, 5] = 0.4, 4 * 0.4
    assert mask[:, 12, 12].max() == 0
    assert mask[1, 5, 5] == 1
    weighted = Autoencoding(edges=0, divergence=0)
    ratio = [reconstruct(Blurred(error), clips, noise, weighted).loss[0] for error in (moved, still)]
    np.testing.assert_allclose(ratio[0] / ratio[1], 5, rtol=1e-4)
    assert reconstruct(Blurred(moved), clips, noise, Autoencoding(divergence=0)).loss[0] > 1.5 * ratio[0]
    # of a normal distribution from that of unit variance
    latents = np.random.default_rng(0).standard_normal(clips.shape, np.float32)
    unit = [reconstruct(Blurred(0.0, v), latents, noise, Autoencoding(0, 0, 1.0)).loss for v in (0.0, -4.0)]
    np.testing.assert_allclose(unit[0], 0.5 * np.square(latents).mean((1, 2, 3, 4)), rtol=1e-4)
    np.testing.assert_allclose(unit[1] - unit[0], 0.5 * (np.exp(-4) - 1 + 4), rtol=1e-4)


def test_the_posterior_is_sampled(clips):
    noise = np.ones_like(clips)
    found = reconstruct(Blurred(0.0, np.log(0.01)), clips, noise, NO_TERMS)
    np.testing.assert_allclose(found.loss, 0.1, rtol=1e-4)


def test_latents_of_a_frozen_encoder_are_given(clips):
    """Nothing is asked of them, neither by the error nor by the divergence."""

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
    """In place of a VAE: a latent is the pixel at its corner, and what comes back rises to the right as the ramp does."""

    def encode(self, images):
        return images[:, ::2, ::2], jnp.full_like(images[:, ::2, ::2], -30.0)

    def decode(self, latents):
        return latents.repeat(2, 2).repeat(2, 3) + jnp.tile(jnp.array([0.0, 0.1]), latents.shape[3])[:, None]


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_latents_that_are_moved_show_the_clip_moved(offset):
    """Of a ramp whose every pixel can be told: exactly, and not if the clip were moved another way."""
    ramp = np.tile(np.arange(8, dtype=np.float32)[:, None] / 10 - 0.5, (2, 3, 8, 1, 1))
    noise = np.zeros((2, 3, 3, 3, 1), np.float32)
    offsets = jnp.array([offset, (0, 0)])
    found = reconstruct(Halved(), ramp, noise, NO_TERMS, offsets=offsets)
    np.testing.assert_allclose(found.loss, 0, atol=1e-6)
    assert part(jnp.asarray(ramp[0]), offsets[0], (6, 6)).shape == (3, 6, 6, 1)
    np.testing.assert_allclose(part(jnp.asarray(ramp[0]), offsets[0], (6, 6))[0, 0, 0, 0], -0.5 + offset[1] / 10)
    down = jnp.asarray(ramp.swapaxes(2, 3))[0]
    np.testing.assert_allclose(move(down, jnp.array([0.25, 0.75]))[0, :, 0, 0], np.arange(7) / 10 - 0.475, rtol=1e-5)


@pytest.mark.parametrize("crop", [None, 8])
def test_squares_have_room_for_offsets(clips, crop):
    """Of all directions, in the share of the clips that was asked for; none without."""
    many = np.tile(clips[:1], (400, 1, 1, 1, 1))
    posterior, keys = np.zeros((400, 4, 8, 8, 1), np.float32), jax.random.split(jax.random.key(0), 400)
    how = PretrainingSettings(400, 4, (16, 16), 1, crop=crop)
    taken, noise, offsets = to_reconstruct(many, posterior, keys, how, 2)
    assert offsets is None
    assert taken.shape[2:4] == (crop or 16,) * 2
    assert noise.shape[2:4] == (taken.shape[2] // 2,) * 2
    how = dataclasses.replace(how, autoencoding=Autoencoding(equivariance=0.5))
    taken, noise, offsets = to_reconstruct(many, posterior, keys, how, 2)
    assert taken.shape[2] == (16 if crop is None else crop + 2)
    assert noise.shape[2:4] == (taken.shape[2] // 2 - 1,) * 2
    places, counts = np.unique(offsets, axis=0, return_counts=True)
    np.testing.assert_array_equal(places, [(0, 0), (0, 1), (1, 0), (1, 1)])
    np.testing.assert_allclose(counts / 400, [0.625, 0.125, 0.125, 0.125], atol=0.06)


def test_crops_follow_what_moves(clips):
    """The square moves over the upper half: most crops are of it, a few are not; the same part of every frame."""
    crops = jax.vmap(crop, (None, 0, None))(clips[0], jax.random.split(jax.random.key(0), 200), 8)
    assert crops.shape == (200, 4, 8, 8, 3)
    seen = np.asarray((crops > 0).any((1, 2, 3, 4)))
    assert 0.8 < seen.mean() < 1
    positions = clips[0].copy()
    positions[..., 0] = np.arange(16)[:, None] / 100
    taken = np.asarray(crop(jnp.asarray(positions), jax.random.key(1), 8))
    assert (taken[..., 0] == taken[:1, :, :1, 0]).all()
    np.testing.assert_allclose(np.diff(taken[0, :, 0, 0]), 0.01, atol=1e-6)


def test_levels_of_a_batchs_noises_are_spread_evenly():
    """One in each of the distribution's equally likely shares, a clip's in each quarter, which together are the whole of it."""
    how = PretrainingSettings(5, 2, (8, 8), 1, noises=4, noising=Noising(log_sigma_mean=0.5, log_sigma_std=2.0))
    keys = jax.random.split(jax.random.key(0), (100, 5))
    draw = jax.vmap(lambda key, row: noises(key, row, how, (2, 3)))
    noise, sigma = jax.vmap(lambda keys: draw(keys, jnp.arange(5)))(keys)
    assert noise.shape == (100, 5, 4, 2, 3)
    np.testing.assert_allclose(noise.std(), 1, rtol=0.02)
    levels = (np.log(sigma) - 0.5) / 2
    shares = jax.scipy.special.ndtr(levels)
    np.testing.assert_array_equal(np.floor(shares * 4), np.tile(np.arange(4), (100, 5, 1)))
    np.testing.assert_array_equal(np.sort(np.floor(shares * 20).reshape(100, 20)), np.tile(np.arange(20), (100, 1)))
    np.testing.assert_allclose([levels.mean(), levels.std()], [0, 1], atol=0.05)


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

    def told(values):  # the second clip is told nothing
        return np.stack([values[0], np.zeros_like(values[1])])

    image = np.broadcast_to(told(batch.image_latents)[:, None], noisy.shape)
    sample = np.concatenate([noisy / np.sqrt(sigma**2 + 1), image], -1)
    embeds = told(np.asarray(embed_images(image_encoder, batch.first)))
    v = jax.jit(lambda unet: unet(sample, edm.c_noise(batch.sigma), embeds, batch.added_time_ids))(unet)
    error = edm.denoise(noisy, v, sigma) - batch.latents
    expected = (np.asarray(error) ** 2).mean((1, 2, 3, 4)) * (1 + batch.sigma**2) / batch.sigma**2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_denoising_with_embeddings_that_are_given(networks):
    """In place of the first frame, where the image encoder stays: the same loss."""
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    latents, noise = rng.standard_normal((2, 2, 3, 4, 4, 4), np.float32)
    image_latents = rng.standard_normal((2, 4, 4, 4), np.float32)
    told, ids = np.array([1.0, 0.0], np.float32), np.tile(np.array([[6, 127, 0.02]], np.float32), (2, 1))

    @functools.partial(jax.jit, static_argnames="frozen")
    def losses(unet, image_encoder, frozen):
        shown = embed_images(image_encoder, first) if frozen else first
        batch = Noised(latents, noise, np.array([0.4, 5.0], np.float32), shown, image_latents, told, ids)
        return denoising_losses(unet, None if frozen else image_encoder, batch, run_block=run_plainly)

    np.testing.assert_allclose(losses(*networks, True), losses(*networks, False), rtol=1e-5)


def test_fact_losses(networks):
    """A linear head on the embedding of each frame; the mean of squares, a clip."""
    _, image_encoder = networks
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    facts = rng.standard_normal((2, 3, 5), np.float32)
    embeds = np.asarray(embed_images(image_encoder, to_signed_unit(jnp.asarray(clips.reshape(6, 16, 16, 3)))))[:, 0]
    kernel, bias = rng.standard_normal((embeds.shape[1], 5), np.float32), rng.standard_normal(5, np.float32)
    expected = np.square((embeds @ kernel + bias).reshape(2, 3, 5) - facts).mean((1, 2))
    np.testing.assert_allclose(fact_losses(image_encoder, kernel, bias, clips, facts), expected, rtol=1e-4)


def test_mean_of_the_weights():
    optimizer = optax.chain(optax.sgd(1.0), averaged(0.9))
    trained = {"a": jnp.array(0.0)}
    state = optimizer.init(trained)
    mean = 0.0
    for step in range(1, 400):
        updates, state = optimizer.update({"a": jnp.array(-1.0 / step)}, state, trained)
        trained = optax.apply_updates(trained, updates)
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * float(trained["a"])
        np.testing.assert_allclose(state[-1].average["a"], mean, rtol=1e-4)
