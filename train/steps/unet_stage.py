"""The UNet's stage: Stable Video Diffusion's own objective, with a trained or frozen image encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.losses.denoising import Noised, denoising_losses
from svdjax.losses.training_noise import TrainingDraws
from svdjax.models.clip import CLIPVision
from svdjax.models.svd import SVD
from svdjax.models.vae import VAE
from svdjax.parallel import sharding
from svdjax.sampling import generation
from svdjax.sampling.conditioning import added_time_ids, embed_images, to_signed_unit
from svdjax.sampling.settings import Settings
from train.batches.cached_batches import cached_batches
from train.run.session import Batches
from train.steps.optimizer import average_of
from train.steps.settings import PretrainingSettings
from train.steps.stage import Stage
from train.steps.state import State
from train.steps.step import run_blocks

_DROPOUT, _NOISES = 100, 102  # folded into the key of a clip, for random numbers independent of each other and of its draws


class UNetStage(Stage):
    """Train the UNet and the image encoder, or the UNet alone with `--freeze-encoder`."""

    networks = ("unet", "image_encoder")
    own_options = ("dropout", "log_sigma", "noises", "no_remat")

    @classmethod
    def trained_networks(cls, freeze_encoder: bool) -> tuple[str, ...]:
        return ("unet",) if freeze_encoder else cls.networks

    @classmethod
    def frozen_networks(cls, freeze_encoder: bool) -> tuple[str, ...]:
        return ("vae", "image_encoder") if freeze_encoder else ("vae",)

    def make_examples(self, encoders: dict[str, Any], arrays: dict[str, Array], step: Array) -> Noised:
        """One example per clip and noise, (b * noises, ...)."""
        vae: VAE = sharding.gathered(encoders["vae"], self.mesh)
        image_encoder: CLIPVision | None = sharding.gathered(encoders.get("image_encoder"), self.mesh)
        draws = self._draws(self.settings, self.config, step)
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)

        def clip_examples(arrays: dict[str, Array], draws: TrainingDraws, row: Array) -> Noised:
            return self._clip_examples(vae, image_encoder, arrays, draws, row, jax.random.fold_in(key, row))

        examples = jax.vmap(clip_examples)(arrays, draws, jnp.arange(self.batch_size))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), examples)

    def _clip_examples(
        self, vae: VAE, image_encoder: CLIPVision | None, arrays: dict[str, Array], draws: TrainingDraws, row: Array, key: Array
    ) -> Noised:
        """The examples of a clip (decoded, or from the latent cache), one per noise, (noises, ...)."""
        noising = self.settings.noising
        strength = noising.noise_aug_strength
        frames = arrays["keyframes"] if "keyframes" in arrays else arrays["clips"]
        mean, logvar = (arrays["mean"], arrays["logvar"]) if "mean" in arrays else vae.encode(to_signed_unit(frames))
        latents = (mean + jnp.exp(0.5 * logvar) * draws.posterior) * self.config.vae.scaling_factor
        image_latents, _ = vae.encode(to_signed_unit(frames[:1]) + strength * draws.augmentation)
        conditional = jax.random.uniform(jax.random.fold_in(key, _DROPOUT)) >= self.settings.dropout
        if "image_embeds" in arrays:
            first = arrays["image_embeds"][0]
        else:
            first = frames[0] if image_encoder is None else embed_images(image_encoder, to_signed_unit(frames[:1]))[0]
        noise, sigma = spread_noises(jax.random.fold_in(key, _NOISES), row, self.settings, latents.shape)

        def noised(noise: Array, sigma: Array) -> Noised:
            return Noised(
                latents=latents,
                noise=noise,
                sigma=sigma,
                first=first,
                image_latents=image_latents[0],
                conditional=conditional.astype(jnp.float32),
                added_time_ids=added_time_ids(noising.fps, noising.motion_bucket_id, strength),
            )

        return jax.vmap(noised)(noise, sigma)

    def sigma(self, examples: Noised) -> Array:
        return examples.sigma

    def loss_of(self, trained: Mapping[str, Array]) -> Callable[[Noised], Array]:
        networks = self.trained_with(trained)
        image_encoder = sharding.gathered(networks.get("image_encoder"), self.mesh)
        run_block, _ = run_blocks(self.mesh, self.settings.remat)
        return lambda examples: denoising_losses(networks["unet"], image_encoder, examples, run_block=run_block)

    def batches(self, first_step: int) -> Batches:
        """Clips, or their latents from the cache."""
        run = self.run
        if run.options.cache_latents is None or run.model.info is None:
            return super().batches(first_step)
        encoders = (self.encoders["image_encoder"], self.encoders["vae"])
        return cached_batches(run.options.cache_latents, run.model.info, encoders, run.setup, run.order, self.rows, first_step)

    def generate(self, state: State, truth: np.ndarray) -> np.ndarray:
        """A clip generated from the first frame."""
        networks = {**self.encoders, **self.trained_with(average_of(state))}
        options, num_frames = self.run.options, self.settings.num_frames
        settings = Settings(num_frames=num_frames, steps=options.validate_steps, seed=options.seed)
        model = SVD(config=self.config, **networks)
        return generation.decode(model, generation.sample_image(model, truth[:1], settings))[0]


def spread_noises(key: Array, row: Array, settings: PretrainingSettings, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The noises (n, *shape) of one clip of a batch and their levels sigma (n,), spread evenly over the batch.

    The distribution of levels is divided into as many equally likely intervals as the batch has noises. Each interval gets
    one level, and the levels of one clip are far apart.

    Args:
        key: a random key of the clip.
        row: its row in the batch, ().
        settings: settings of the step; n is `settings.noises`.
        shape: shape of one noise.
    """
    count, noising = settings.noises, settings.noising
    of_level, of_noise = jax.random.split(key)
    shares = (jnp.arange(count) + (row + jax.random.uniform(of_level, (count,))) / settings.batch_size) / count
    normal = jax.scipy.special.ndtri(shares.clip(1e-4, 1 - 1e-4))
    sigma = jnp.exp(noising.log_sigma_mean + noising.log_sigma_std * normal)
    return jax.random.normal(of_noise, (count, *shape)), sigma
