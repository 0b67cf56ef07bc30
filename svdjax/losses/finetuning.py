"""The loss of backward fine-tuning: Algorithm 1 of Generative Inbetweening as pure functions.

A frozen forward pass of the UNet on a noised clip gives the temporal attention maps. A second pass on the reversed clip, with
the rotated maps, is trained: its temporal value and output projections learn to denoise. Names and constants are those of the
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

from svdjax.losses.training_noise import Noising, TrainingDraws
from svdjax.memory.accumulation import Trained, accumulate_gradients
from svdjax.memory.precision import stats_dtype
from svdjax.memory.rematerialise import RunBlock, run_plainly, run_rematerialised
from svdjax.models.backward import EVERYWHERE, NOWHERE, QUERIES, Backward, names_of_kinds
from svdjax.models.clip import CLIPVision
from svdjax.models.svd import backward_unet
from svdjax.models.temporal_attention import rotate_maps
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from svdjax.sampling import edm
from svdjax.sampling.conditioning import added_time_ids, embed_images, encode_keyframes, to_signed_unit
from svdjax.sampling.prediction import reverse_time

TRAINED = ("to_v.kernel", "to_out.kernel")  # in every temporal self-attention; 32 tensors of SVD
TRAINED_WITHOUT_ROTATION = TRAINED + QUERIES  # the paper's ablation, where the backward direction computes its own maps


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Examples:
    """Input of the loss for a batch of b clips: float32, frames in forward time.

    Attributes:
        latents: clean latents, multiplied by the scaling factor, (b, f, h, w, c).
        noise: unit-variance noise, (b, f, h, w, c).
        sigma: noise levels, (b,).
        image_embeds: CLIP embeddings of the first and last frame, (b, 2, 1, c).
        image_latents: VAE latents of the noised first and last frame, without the scaling factor, (b, 2, h, w, c).
        added_time_ids: fps - 1, motion bucket id, noise augmentation strength, (b, 3).
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
    """Encodings of b clips that don't depend on random draws, and so can be cached.

    Attributes:
        mean, logvar: mean and log variance of the VAE's latents, (b, f, h, w, c).
        image_embeds: CLIP embeddings of the first and last frame, (b, 2, 1, c).
    """

    mean: Array
    logvar: Array
    image_embeds: Array


def encode_frames(image_encoder: CLIPVision, vae: VAE, frames: Array) -> tuple[Array, Array, Array]:
    """Encode single frames (n, H, W, 3) for `Moments`: mean and logvar (n, h, w, c), and image embeddings (n, 1, c)."""
    images = to_signed_unit(frames)
    return *vae.encode(images), embed_images(image_encoder, images)


def encode_clips(image_encoder: CLIPVision, vae: VAE, clips: Array, draws: TrainingDraws, noising: Noising) -> Examples:
    """Encode clips (b, f, H, W, 3), uint8 or in [-1, 1]."""

    def encode_clip(clip: Array, draws: TrainingDraws) -> Examples:
        mean, logvar = vae.encode(to_signed_unit(clip))
        ends = clip[jnp.array([0, -1])]
        embeds, image_latents = encode_keyframes(image_encoder, vae, ends, draws.augmentation, noising.noise_aug_strength)
        return _example(vae, Moments(mean, logvar, embeds), image_latents, draws, noising)

    return jax.vmap(encode_clip)(clips, draws)


def encode_ends(vae: VAE, keyframes: Array, moments: Moments, draws: TrainingDraws, noising: Noising) -> Examples:
    """`encode_clips` with cached moments: only the first and last frames (b, 2, H, W, 3) are encoded, with added noise."""

    def encode_clip(ends: Array, moments: Moments, draws: TrainingDraws) -> Examples:
        image_latents, _ = vae.encode(to_signed_unit(ends) + noising.noise_aug_strength * draws.augmentation)
        return _example(vae, moments, image_latents, draws, noising)

    return jax.vmap(encode_clip)(keyframes, moments, draws)


def _example(vae: VAE, moments: Moments, image_latents: Array, draws: TrainingDraws, noising: Noising) -> Examples:
    """The example of one clip, without the axis b."""
    return Examples(
        latents=(moments.mean + jnp.exp(0.5 * moments.logvar) * draws.posterior) * vae.config.scaling_factor,
        noise=draws.noise,
        sigma=draws.sigma,
        image_embeds=moments.image_embeds,
        image_latents=image_latents,
        added_time_ids=added_time_ids(noising.fps, noising.motion_bucket_id, noising.noise_aug_strength),
    )


def trained_names(leaves: Mapping[str, object], rotation: bool = True) -> list[str]:
    """Names of the trained tensors of a UNet, from the names of all its leaves."""
    return names_of_kinds(leaves, TRAINED if rotation else TRAINED_WITHOUT_ROTATION)


def clip_losses(
    trained: Trained,
    unet: UNet,
    examples: Examples,
    *,
    carried: Trained | None = None,
    rotation: bool | tuple[str, ...] = True,
    run_block: RunBlock = run_rematerialised,
    run_frozen: RunBlock = run_plainly,
) -> Array:
    """The loss of each clip, (b,): the mean squared error of the predicted v.

    It equals the official loss, the error of the denoised latents weighted by (1 + sigma^2) / sigma^2, without its numerical
    cancellation at small sigma.

    Args:
        trained: the trained tensors of the backward direction, by dotted name (`svdjax.models.backward`).
        unet: the frozen UNet. It computes the maps, and has all tensors that are not in `trained` or `carried`.
        examples: the batch.
        carried: further tensors of the backward direction that are not trained, such as output biases.
        rotation: False for the paper's ablation: no frozen pass; the backward direction computes its own maps. Or the layers
            that use the rotated maps, see `Backward.maps_from_forward`.
        run_block: how blocks run in the differentiated pass (`svdjax.memory.rematerialise`).
        run_frozen: how blocks run in the frozen pass, which keeps only the maps.
    """
    backward = backward_unet(unet, {**(carried or {}), **trained})
    half = Backward(maps_from_forward=rotation if isinstance(rotation, tuple) else EVERYWHERE if rotation else NOWHERE)
    dtype = stats_dtype(unet.dtype)

    # One clip at a time under vmap: loops over frames and rows inside then never run over the batch, which may be divided
    # among devices.
    def clip_loss(x: Examples) -> Array:
        latents, noise, sigma = (a.astype(dtype) for a in (x.latents, x.noise, x.sigma))
        noisy = (latents + sigma * noise) * edm.c_in(sigma)
        c_noise, ids = edm.c_noise(sigma)[None], x.added_time_ids[None]

        def sample(noisy: Array, image_latents: Array) -> Array:
            image_latents = jnp.broadcast_to(image_latents.astype(dtype), noisy.shape)
            return jnp.concatenate([noisy, image_latents], -1)[None]

        maps: dict[str, Array] = {}
        if half.maps_from_forward:
            forward = sample(noisy, x.image_latents[0])
            _, maps = unet(forward, c_noise, x.image_embeds[:1], ids, return_attn_maps=True, run_block=run_frozen)
            # Cast to the compute dtype, in which they are used: fewer bytes are kept until the second pass.
            used = {path: a.astype(unet.dtype) for path, a in maps.items() if half.takes_maps(path)}
            maps = {path: lax.stop_gradient(rotate_maps(a)) for path, a in used.items()}
        reverse = sample(reverse_time(noisy), x.image_latents[1])
        v = backward(reverse, c_noise, x.image_embeds[1:], ids, attn_maps=maps, run_block=run_block)[0]
        target = reverse_time((noise - sigma * latents) * edm.c_in(sigma))
        return jnp.mean(jnp.square(v.astype(dtype) - target))

    return jax.vmap(clip_loss)(examples)


def loss_and_gradients(
    trained: Trained, unet: UNet, examples: Examples, *, accumulate: int = 1, **options: Any
) -> tuple[Array, Array, dict[str, Array]]:
    """Mean loss of a batch, the loss of each clip (b,), and the gradient of every trained tensor.

    Args:
        accumulate: number of parts that the batch is divided into; computed one after the other, they need less memory.
        trained, unet, examples, options: see `clip_losses`.
    """

    def losses(trained: Trained, part: Examples) -> Array:
        return clip_losses(trained, unet, part, **options)

    return accumulate_gradients(losses, trained, examples, accumulate)


def optimizer(learning_rate: float) -> optax.GradientTransformation:
    """The official optimizer: gradients clipped to global norm 1, then AdamW at a constant rate with PyTorch's defaults."""
    adamw = optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)
