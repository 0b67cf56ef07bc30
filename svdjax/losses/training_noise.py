"""Random draws of training: noise levels and noise for each clip of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True, kw_only=True)
class Noising:
    """Noise levels of training, and the conditioning of the UNet. The defaults are the official script's.

    Attributes:
        log_sigma_mean, log_sigma_std: mean and standard deviation of ln sigma, which is normally distributed.
        fps, motion_bucket_id: see `svdjax.Settings`.
        noise_aug_strength: standard deviation of the noise on the conditioning frames.
    """

    log_sigma_mean: float = 0.7
    log_sigma_std: float = 1.6
    fps: int = 7
    motion_bucket_id: float = 127
    noise_aug_strength: float = 0.02


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainingDraws:
    """Random draws for a batch of b clips: noise levels, and standard normal noise with frames in forward time.

    Attributes:
        sigma: noise levels, (b,).
        augmentation: noise on the conditioning frames, the same for the first and last frame of a clip, (b, H, W, 3).
        posterior: noise that samples the VAE's latents, (b, f, h, w, c).
        noise: noise added to the latents, (b, f, h, w, c).
    """

    sigma: Array
    augmentation: Array
    posterior: Array
    noise: Array


def draw_training_noise(
    seed: int | Array,
    step: int | Array,
    rows: Array,
    image_shape: tuple[int, ...],
    latent_shape: tuple[int, ...],
    noising: Noising,
) -> TrainingDraws:
    """Draw noise for some rows (clips) of the batch of one step.

    The draws of a row depend only on the seed, the step, and the number of the row in the whole batch: not on the devices, nor
    on how the batch is divided.

    Args:
        seed: seed of the run.
        step: number of the step.
        rows: numbers of the rows, (b,).
        image_shape: (H, W, 3).
        latent_shape: (f, h, w, c).
        noising: distribution of the noise levels.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)

    def draw_row(row: Array) -> TrainingDraws:
        sigma, augmentation, posterior, noise = jax.random.split(jax.random.fold_in(key, row), 4)
        return TrainingDraws(
            jnp.exp(noising.log_sigma_mean + noising.log_sigma_std * jax.random.normal(sigma)),
            jax.random.normal(augmentation, image_shape),
            jax.random.normal(posterior, latent_shape),
            jax.random.normal(noise, latent_shape),
        )

    return jax.vmap(draw_row)(rows)
