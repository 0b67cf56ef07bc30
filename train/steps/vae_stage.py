"""The VAE's stage: reconstruct clips from noisy latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.config import SVDConfig
from svdjax.data.readers import read_clip
from svdjax.decoding.decode_steps import to_levels
from svdjax.errors import InputError
from svdjax.losses.autoencoding import crop_around_motion, reconstruct
from svdjax.models.vae import VAE
from svdjax.parallel import sharding
from svdjax.parallel.main_process import say
from svdjax.sampling.conditioning import to_signed_unit
from train.options.base import BaseOptions
from train.steps.optimizer import average_of
from train.steps.settings import PretrainingSettings
from train.steps.stage import Stage, StageRun
from train.steps.state import State

_CROP, _OFFSET = 101, 103  # folded into the key of a clip, for random numbers independent of each other and of its noise
_SCALE_CLIPS = 64  # number of clips on which the scale of the latents is measured

Examples = tuple[Array, Array, Array | None]  # clips, noise of the latents, offsets: see `reconstruct`


class VAEStage(Stage):
    """Train the VAE, or its decoder alone with `--freeze-encoder`."""

    networks = ("vae",)
    own_options = ("crop", "divergence", "equivariance")

    @classmethod
    def check_options(cls, options: BaseOptions) -> None:
        super().check_options(options)
        if options.freeze_encoder and options.model is None:
            raise InputError("--freeze-encoder without --model: expected a checkpoint with the encoder to keep")

    @classmethod
    def check_clips(cls, options: BaseOptions, config: SVDConfig, size: tuple[int, int]) -> None:
        factor, largest = config.vae.down_factor, min(size)
        if options.crop is not None and (options.crop % factor or not 2 * factor <= options.crop <= largest):
            raise InputError(
                f"--crop is {options.crop}, expected a multiple of {factor} from {2 * factor} to {largest}, the shorter side"
            )

    def make_examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Examples:
        draws = self._draws(self.settings, self.config, step)
        key = jax.random.fold_in(jax.random.key(self.settings.seed), step)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(self.batch_size))
        return crops_with_offsets(arrays["clips"], draws.posterior, keys, self.settings, self.config.vae.down_factor)

    def loss_of(self, trained: Mapping[str, Array]) -> Callable[[Examples], Array]:
        vae = sharding.gathered(self.trained_with(trained)["vae"], self.mesh)
        weights, freeze = self.settings.autoencoding, self.settings.freeze_encoder

        def losses(examples: Examples) -> Array:
            clips, posterior, offsets = examples
            return reconstruct(vae, clips, posterior, weights, offsets=offsets, freeze_encoder=freeze).loss

        return losses

    def generate(self, state: State, truth: np.ndarray) -> np.ndarray:
        """The held-out clip, encoded and decoded."""
        decoded = np.asarray(_decode_mean(self.trained_with(average_of(state))["vae"], truth))
        error = np.square(decoded.astype(float) - truth).mean()
        say(f"step {int(state.step)}: PSNR of the held-out clip {10 * np.log10(255**2 / max(error, 1e-9)):.1f} dB")
        return decoded

    def trained_config(self, state: State) -> SVDConfig:
        """The configuration with the scale of the new latents; unchanged if the encoder is frozen."""
        if self.settings.freeze_encoder:
            return self.config
        scale = latents_scale(self.run, self.trained_with(average_of(state))["vae"])
        return dataclasses.replace(self.config, vae=dataclasses.replace(self.config.vae, scaling_factor=scale))


def crops_with_offsets(clips: Array, posterior: Array, keys: Array, settings: PretrainingSettings, factor: int) -> Examples:
    """Clips or square crops of them, noise of their latents, and offsets (b, 2) in pixels, None if no latents are shifted.

    With offsets, a crop is larger by one latent if the frame has room, so that the compared part keeps its size.

    Args:
        clips: (b, f, H, W, 3).
        posterior: unit-variance noise of the whole clips' latents, (b, f, h, w, c).
        keys: a random key of each clip, (b,).
        settings: settings of the step.
        factor: pixels per latent along a side.
    """
    share = settings.autoencoding.equivariance
    if settings.crop is not None:
        side = min(settings.crop + (factor if share else 0), *clips.shape[2:4])
        clips = jax.vmap(crop_around_motion, (0, 0, None))(clips, jax.vmap(jax.random.fold_in, (0, None))(keys, _CROP), side)
    height, width = (size // factor - (1 if share else 0) for size in clips.shape[2:4])
    noise = posterior[:, :, :height, :width]
    if not share:
        return clips, noise, None

    def offset(key: Array) -> Array:
        of_share, of_place = jax.random.split(jax.random.fold_in(key, _OFFSET))
        return jax.random.randint(of_place, (2,), 0, factor) * (jax.random.uniform(of_share) < share)

    return clips, noise, jax.vmap(offset)(keys)


def latents_scale(run: StageRun, vae: VAE) -> float:
    """The factor that gives latents unit variance, measured on the first clips of the run."""
    data = run.setup.data
    clips = (run.order.clip(position) for position in range(_SCALE_CLIPS))
    read = (read_clip(clip.source, clip.start, clip.num_frames, clip.stride, data.size, data.fit) for clip in clips)
    first, second = np.mean([jax.device_get(_moments(vae, clip)) for clip in read], 0)
    return float((second - first**2) ** -0.5)


@jax.jit
def _moments(vae: VAE, clip: Array) -> tuple[Array, Array]:
    """First and second moment of the latents of a clip."""
    mean, logvar = vae.encode(to_signed_unit(clip))
    return mean.mean(), (mean**2 + jnp.exp(logvar)).mean()


@jax.jit
def _decode_mean(vae: VAE, clip: Array) -> Array:
    """A clip (f, H, W, 3), decoded from the mean of its latents, as uint8."""
    mean, _ = vae.encode(to_signed_unit(clip))
    return to_levels(vae.decode(mean[None])[0])
