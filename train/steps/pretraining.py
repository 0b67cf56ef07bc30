"""Training from scratch as the loop runs it: the VAE, the image encoder, then the UNet with the image encoder or without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.losses import finetuning
from svdjax.losses.autoencoding import crop, reconstruct
from svdjax.losses.denoising import Noised, denoising_losses
from svdjax.losses.facts import fact_losses
from svdjax.memory import accumulation
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, fill
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from svdjax.parallel import sharding
from svdjax.parallel.mesh import BATCH_AXES
from svdjax.sampling.conditioning import added_time_ids, embed_images, to_signed_unit
from train.run.loop import Result
from train.steps.optimizer import optimizer
from train.steps.settings import PretrainingSettings
from train.steps.state import State
from train.steps.step import Step, finish, run_blocks

STAGES = {"vae": ("vae",), "image-encoder": ("image_encoder",), "unet": ("unet", "image_encoder")}  # what each trains
HEAD = ("head.kernel", "head.bias")  # that reads facts off the embedding, trained beside the image encoder and dropped
_DROPOUT, _CROP, _NOISES, _OFFSET = 100, 101, 102, 103  # tell these draws from those of `svdjax.losses.finetuning.draw`


def trained_networks(stage: str, freeze_encoder: bool) -> tuple[str, ...]:
    """Of a stage; a VAE's frozen encoder is part of what it trains."""
    return ("unet",) if stage == "unet" and freeze_encoder else STAGES[stage]


def of_network(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Those of one network, named within it."""
    return {leaf.removeprefix(f"{name}."): value for leaf, value in tensors.items() if leaf.startswith(f"{name}.")}


def noises(key: Array, row: Array, how: PretrainingSettings, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Noises (n, *shape) of one clip of a batch and their sigmas (n,).

    Of the levels' equally likely shares, as many as the batch has noises, each is drawn from once; a clip's are far apart.
    """
    count, noising = how.noises, how.noising
    of_level, of_noise = jax.random.split(key)
    shares = (jnp.arange(count) + (row + jax.random.uniform(of_level, (count,))) / how.batch_size) / count
    normal = jax.scipy.special.ndtri(shares.clip(1e-4, 1 - 1e-4))
    sigma = jnp.exp(noising.log_sigma_mean + noising.log_sigma_std * normal)
    return jax.random.normal(of_noise, (count, *shape)), sigma


def to_reconstruct(
    clips: Array, posterior: Array, keys: Array, how: PretrainingSettings, factor: int
) -> tuple[Array, Array, Array | None]:
    """What `reconstruct` takes: clips or squares of them, their noise, and offsets, None where no latents are to be moved.

    Where some are, a square is larger by a latent if the frame has room: what is compared is as large as it would be.
    """
    share = how.autoencoding.equivariance
    if how.crop is not None:
        side = min(how.crop + (factor if share else 0), *clips.shape[2:4])
        clips = jax.vmap(crop, (0, 0, None))(clips, jax.vmap(jax.random.fold_in, (0, None))(keys, _CROP), side)
    height, width = (size // factor - (1 if share else 0) for size in clips.shape[2:4])
    noise = posterior[:, :, :height, :width]
    if not share:
        return clips, noise, None

    def offset(key: Array) -> Array:
        of_share, of_place = jax.random.split(jax.random.fold_in(key, _OFFSET))
        return jax.random.randint(of_place, (2,), 0, factor) * (jax.random.uniform(of_share) < share)

    return clips, noise, jax.vmap(offset)(keys)


class Pretraining(Step):
    """A stage of one model on one mesh.

    Args:
        stage: a key of `STAGES`.
        config: of the model.
        start: the tensors of the networks that are trained, float32, by name such as `unet.conv_in.kernel`, and of the head.
        frozen: the other networks that the stage needs, by name.
        mesh: the devices.
        how: the step's settings.
        dtype: of the computation.
    """

    def __init__(
        self,
        stage: str,
        config: SVDConfig,
        start: Mapping[str, Array],
        frozen: Mapping[str, Any],
        mesh: Mesh,
        how: PretrainingSettings,
        dtype: Any,
    ):
        self.stage, self.config, self.how = stage, config, how
        self._networks = {
            name: abstract(NETWORKS[name], getattr(config, name), jnp.dtype(dtype), jnp.float32)
            for name in trained_networks(stage, how.freeze_encoder)
        }
        self._optimizer = optimizer(how, mesh)
        self.encoders = dict(frozen)
        super().__init__(mesh, how.batch_size, start, self._optimizer)

    def networks(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        """The trained networks with these tensors."""
        return {name: fill(network, of_network(tensors, name)) for name, network in self._networks.items()}

    def _examples(self, encoders: dict[str, Any], arrays: dict[str, Array], step: Array) -> Any:
        how = self.how
        if self.stage == "image-encoder":
            return arrays["clips"], arrays["facts"]
        draws = self._draws(self.config, step)
        key = jax.random.fold_in(jax.random.key(how.seed), step)
        rows = jnp.arange(self.batch_size)
        if self.stage == "vae":
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
            return to_reconstruct(arrays["clips"], draws.posterior, keys, how, self.config.vae.down_factor)
        vae: VAE = sharding.gathered(encoders["vae"], self.mesh)
        image_encoder: CLIPVision | None = sharding.gathered(encoders.get("image_encoder"), self.mesh)
        scale = self.config.vae.scaling_factor
        strength = how.noising.noise_aug_strength
        ids = added_time_ids(how.noising.fps, how.noising.motion_bucket_id, strength)

        def one(x: dict[str, Array], draws: finetuning.Draws, row: Array) -> Noised:
            frames = x["keyframes"] if "keyframes" in x else x["clips"]
            mean, logvar = (x["mean"], x["logvar"]) if "mean" in x else vae.encode(to_signed_unit(frames))
            latents = (mean + jnp.exp(0.5 * logvar) * draws.posterior) * scale
            image_latents, _ = vae.encode(to_signed_unit(frames[:1]) + strength * draws.augmentation)
            of_row = jax.random.fold_in(key, row)
            told = jax.random.uniform(jax.random.fold_in(of_row, _DROPOUT)) >= how.dropout
            if "image_embeds" in x:
                first = x["image_embeds"][0]
            else:
                first = frames[0] if image_encoder is None else embed_images(image_encoder, to_signed_unit(frames[:1]))[0]
            noise, sigma = noises(jax.random.fold_in(of_row, _NOISES), row, how, latents.shape)

            def noised(noise: Array, sigma: Array) -> Noised:
                return Noised(latents, noise, sigma, first, image_latents[0], told.astype(jnp.float32), ids)

            return jax.vmap(noised)(noise, sigma)

        examples = jax.vmap(one)(arrays, draws, rows)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), examples)

    def _update(self, state: State, *arguments: Any) -> tuple[State, Result]:
        (batch,) = arguments
        sigma = batch.sigma if isinstance(batch, Noised) else jnp.zeros(self.how.batch_size)
        found = accumulation.loss_and_gradients(self.losses, state.trained, batch, self.how.accumulate)
        loss, losses, gradients = found
        of_clips, sigma = (x.reshape(self.batch_size, -1).mean(1) for x in (losses, sigma))
        return finish(state, loss, of_clips, sigma, gradients, self._optimizer)

    def losses(self, trained: Mapping[str, Array], batch: Any) -> Array:
        """Of each clip of a batch, or of each of its noises, (b,)."""
        devices = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        count = len(jax.tree.leaves(batch)[0])
        groups = math.gcd(count, devices)  # fewer where a part of a step has fewer clips than there are devices
        return accumulation.in_groups(self._losses_of(trained), batch, groups)

    def _losses_of(self, trained: Mapping[str, Array]) -> Callable[[Any], Array]:
        """The stage's loss, of the clips of a batch or of a part of one."""
        networks, how = self.networks(trained), self.how
        if self.stage == "vae":
            vae = sharding.gathered(networks["vae"], self.mesh)

            def reconstructed(batch: tuple[Array, Array, Array | None]) -> Array:
                clips, posterior, offsets = batch
                freeze = how.freeze_encoder
                return reconstruct(vae, clips, posterior, how.autoencoding, offsets=offsets, freeze_encoder=freeze).loss

            return reconstructed
        image_encoder: CLIPVision | None = sharding.gathered(networks.get("image_encoder"), self.mesh)
        if self.stage == "image-encoder":
            head = [trained[name] for name in HEAD]
            return lambda batch: fact_losses(image_encoder, *head, *batch)
        unet: UNet = networks["unet"]
        run_block = run_blocks(self.mesh, how.remat)["run_block"]
        return lambda batch: denoising_losses(unet, image_encoder, batch, run_block=run_block)
