"""The backward fine-tune: Algorithm 1 of Generative Inbetweening as pure functions.

A frozen pass of the UNet on a noised clip gives the temporal attention maps; a second pass on the reversed clip, with the maps
rotated, learns to undo the noise with its own temporal values and output projections. Names and constants are those of the
official `train_reverse_motion_with_attnflip.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from svdjax.memory import accumulation
from svdjax.memory.accumulation import Trained
from svdjax.memory.blocking import stats_dtype
from svdjax.memory.rematerialise import RunBlock, run_plainly, run_rematerialised
from svdjax.models.attention import rotate_maps
from svdjax.models.backward import QUERIES, expected_names
from svdjax.models.clip import CLIPVision
from svdjax.models.svd import backward_unet
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from svdjax.sampling import edm
from svdjax.sampling.conditioning import added_time_ids, embed_images, encode_keyframes, to_signed_unit
from svdjax.sampling.sampler import reverse_time

TRAINED = ("to_v.kernel", "to_out.kernel")  # of every temporal self-attention; 32 tensors of SVD
TRAINED_WITHOUT_ROTATION = TRAINED + QUERIES  # the paper's ablation, whose backward pass makes its own maps


@dataclass(frozen=True)
class Noising:
    """How clips are noised and what the UNet is told of them; defaults are the official script's.

    Attributes:
        log_sigma_mean, log_sigma_std: ln sigma is normal with these.
        fps, motion_bucket_id: as in `svdjax.Settings`.
        noise_aug_strength: standard deviation of the noise on the conditioning frames.
    """

    log_sigma_mean: float = 0.7
    log_sigma_std: float = 1.6
    fps: int = 7
    motion_bucket_id: float = 127
    noise_aug_strength: float = 0.02


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draws:
    """Every random number of a batch of b clips; normal of unit variance, frames in forward time.

    Attributes:
        sigma: noise levels, (b,).
        augmentation: noise on the conditioning frames, the same on a clip's first and last, (b, H, W, 3).
        posterior: of the VAE's latents, (b, f, h, w, c).
        noise: added to the latents, (b, f, h, w, c).
    """

    sigma: Array
    augmentation: Array
    posterior: Array
    noise: Array


def draw(
    seed: int | Array, step: int | Array, rows: Array, image_shape: tuple[int, ...], latent_shape: tuple[int, ...], how: Noising
) -> Draws:
    """The draws of some rows of the batch of a step.

    A row's draws depend on the seed, the step and its number in the whole batch alone: not on the devices, nor on how the
    batch is divided.

    Args:
        rows: numbers of the rows, (b,).
        image_shape: (H, W, 3).
        latent_shape: (f, h, w, c).
    """
    key = jax.random.fold_in(jax.random.key(seed), step)

    def one(row: Array) -> Draws:
        sigma, augmentation, posterior, noise = jax.random.split(jax.random.fold_in(key, row), 4)
        return Draws(
            jnp.exp(how.log_sigma_mean + how.log_sigma_std * jax.random.normal(sigma)),
            jax.random.normal(augmentation, image_shape),
            jax.random.normal(posterior, latent_shape),
            jax.random.normal(noise, latent_shape),
        )

    return jax.vmap(one)(rows)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """A batch as the loss takes it; frames in forward time, float32.

    Attributes:
        latents: clean and scaled, (b, f, h, w, c).
        noise: (b, f, h, w, c), of unit variance.
        sigma: (b,).
        image_embeds: CLIP embeddings of the first and last frame, (b, 2, 1, c).
        image_latents: VAE latents of the first and last frame with noise, not scaled, (b, 2, h, w, c).
        added_time_ids: (b, 3).
    """

    latents: Array
    noise: Array
    sigma: Array
    image_embeds: Array
    image_latents: Array
    added_time_ids: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """What of a batch of clips can be computed once and kept: all but the noised conditioning frames.

    Attributes:
        mean, logvar: of the VAE's latents, (b, f, h, w, c).
        image_embeds: CLIP embeddings of the first and last frame, (b, 2, 1, c).
    """

    mean: Array
    logvar: Array
    image_embeds: Array


def encode_frames(image_encoder: CLIPVision, vae: VAE, frames: Array) -> tuple[Array, Array, Array]:
    """Single frames (n, H, W, 3) -> mean and logvar (n, h, w, c) and image embeddings (n, 1, c): the stuff of `Moments`."""
    images = to_signed_unit(frames)
    return *vae.encode(images), embed_images(image_encoder, images)


def encode_clips(image_encoder: CLIPVision, vae: VAE, clips: Array, draws: Draws, how: Noising) -> Examples:
    """Clips (b, f, H, W, 3), uint8 or in [-1, 1], to examples."""

    def one(clip: Array, draws: Draws) -> Examples:
        mean, logvar = vae.encode(to_signed_unit(clip))
        ends = clip[jnp.array([0, -1])]
        embeds, image_latents = encode_keyframes(image_encoder, vae, ends, draws.augmentation, how.noise_aug_strength)
        return _example(vae, mean, logvar, embeds, image_latents, draws, how)

    return jax.vmap(one)(clips, draws)


def encode_ends(vae: VAE, keyframes: Array, moments: Moments, draws: Draws, how: Noising) -> Examples:
    """`encode_clips` where the moments are known: only the noised first and last frames (b, 2, H, W, 3) are encoded."""

    def one(ends: Array, moments: Moments, draws: Draws) -> Examples:
        image_latents, _ = vae.encode(to_signed_unit(ends) + how.noise_aug_strength * draws.augmentation)
        return _example(vae, moments.mean, moments.logvar, moments.image_embeds, image_latents, draws, how)

    return jax.vmap(one)(keyframes, moments, draws)


def _example(vae: VAE, mean: Array, logvar: Array, embeds: Array, image_latents: Array, draws: Draws, how: Noising) -> Examples:
    latents = (mean + jnp.exp(0.5 * logvar) * draws.posterior) * vae.config.scaling_factor
    ids = added_time_ids(how.fps, how.motion_bucket_id, how.noise_aug_strength)
    return Examples(latents, draws.noise, draws.sigma, embeds, image_latents, ids)


def trained_names(leaves: Mapping[str, object], rotation: bool = True) -> list[str]:
    """Which tensors of a UNet are trained, from the names of its leaves."""
    return expected_names(leaves, TRAINED if rotation else TRAINED_WITHOUT_ROTATION)


def clip_losses(
    trained: Trained,
    unet: UNet,
    examples: Examples,
    *,
    carried: Trained | None = None,
    rotation: bool = True,
    run_block: RunBlock = run_rematerialised,
    run_frozen: RunBlock = run_plainly,
) -> Array:
    """The loss of each clip, (b,).

    It is the squared error of the predicted v, averaged over the clip. That equals the official loss, the error of the
    denoised latents weighted by (1 + sigma^2) / sigma^2, but does not cancel at small sigma.

    Args:
        trained: the backward direction's own tensors, by dotted name (`svdjax.models.backward`).
        unet: the frozen UNet. It gives the maps, and everything that is not in `trained` or `carried`.
        examples: the batch.
        carried: tensors that the backward direction has of its own without their being trained, such as output biases.
        rotation: False is the paper's ablation: no frozen pass, own maps.
        run_block: how blocks are run in the pass that is differentiated (`svdjax.memory.rematerialise`).
        run_frozen: the same in the frozen pass, which keeps nothing but the maps.
    """
    backward = backward_unet(unet, {**(carried or {}), **trained})
    dtype = stats_dtype(unet.dtype)

    # One clip at a time under vmap, so that loops over frames and rows inside never run over the batch, which may be
    # divided among devices.
    def one(x: Examples) -> Array:
        latents, noise, sigma = (a.astype(dtype) for a in (x.latents, x.noise, x.sigma))
        noisy = (latents + sigma * noise) * edm.c_in(sigma)
        c_noise, ids = edm.c_noise(sigma)[None], x.added_time_ids[None]

        def sample(noisy: Array, image_latents: Array) -> Array:
            image_latents = jnp.broadcast_to(image_latents.astype(dtype), noisy.shape)
            return jnp.concatenate([noisy, image_latents], -1)[None]

        maps: dict[str, Array] = {}
        if rotation:
            forward = sample(noisy, x.image_latents[0])
            _, maps = unet(forward, c_noise, x.image_embeds[:1], ids, return_attn_maps=True, run_block=run_frozen)
            # in the compute dtype, in which they are used: half the bytes that wait for the second pass
            maps = {path: lax.stop_gradient(rotate_maps(a.astype(unet.dtype))) for path, a in maps.items()}
        reverse = sample(reverse_time(noisy), x.image_latents[1])
        v = backward(reverse, c_noise, x.image_embeds[1:], ids, attn_maps=maps, run_block=run_block)[0]
        target = reverse_time((noise - sigma * latents) * edm.c_in(sigma))
        return jnp.mean(jnp.square(v.astype(dtype) - target))

    return jax.vmap(one)(examples)


def loss_and_gradients(
    trained: Trained,
    unet: UNet,
    examples: Examples,
    *,
    accumulate: int = 1,
    **options: Any,
) -> tuple[Array, Array, dict[str, Array]]:
    """Mean loss of a batch, the loss of each clip (b,), and the gradient for every trained tensor.

    Args:
        accumulate: into how many parts the batch is divided, one after the other, to need that much less memory.
        trained, unet, examples, options: as of `clip_losses`.
    """

    return accumulation.loss_and_gradients(
        lambda trained, part: clip_losses(trained, unet, part, **options), trained, examples, accumulate
    )


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    """The official one: gradients clipped to a global norm of 1, then AdamW at a constant rate with PyTorch's defaults."""
    adamw = optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)
