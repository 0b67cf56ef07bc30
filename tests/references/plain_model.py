"""A tiny SVD with random weights for both sides of the comparison: diffusers' UNet and ours, conditioning, draws."""

from __future__ import annotations

import functools

import goldens
import jax.numpy as jnp
import numpy as np
import torch
from networks import backward_tensors
from plain_network import Network
from plain_samplers import Draws as TorchDraws

from svdjax.config import UNetConfig
from svdjax.models.backward import Backward
from svdjax.models.initialize import abstract
from svdjax.models.unet import UNet
from svdjax.sampling import methods
from svdjax.sampling.draws import Draws
from svdjax.sampling.methods import METHODS
from svdjax.sampling.prediction import Conditioning

UNET = {
    "block_out_channels": (32,),
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
    "layers_per_block": 1,
    "num_attention_heads": 2,
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "transformer_layers_per_block": 1,
}
SEED = 3
FRAMES, HEIGHT, WIDTH = 4, 4, 6
TIME_IDS = np.array([6, 127, 0.02], np.float32)


@functools.cache
def tensors() -> tuple[goldens.Tensors, goldens.Tensors]:
    """Of the forward and the backward UNet, by PyTorch name."""
    forward = goldens.torch_weights("unet", UNET, SEED)
    trained = {name: x for name, x in forward.items() if any(part in name for part in goldens.TRAINED)}
    moved = {name: x + np.float32(0.1) * goldens.draw(f"delta:{name}", x.shape) for name, x in trained.items()}
    return forward, forward | moved


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CLIP embeddings (2, 1, c), noised and clean latents (2, h, w, c) of both keyframes."""
    latent = (2, HEIGHT, WIDTH, 4)
    return goldens.draw("embeds", (2, 1, 16)), goldens.draw("noised", latent), goldens.draw("clean", latent)


@functools.cache
def network(backward: bool, rotated: tuple[str, ...]) -> Network:
    """diffusers' side, with or without weights of the backward direction's own, and the layers with rotated maps."""
    forward, tuned = tensors()
    embeds, noised, clean = images()
    return Network(
        UNET,
        forward,
        tuned if backward else None,
        lambda name: name.startswith(rotated),
        image_embeds=embeds,
        image_latents=noised,
        clean_latents=clean,
        time_ids=TIME_IDS,
    )


@functools.cache
def unet() -> UNet:
    return goldens.drawn(UNet, UNetConfig(**UNET), jnp.float32, seed=SEED)


DRAWS = 12  # the same for all runs, so that the programs are compiled once


@functools.cache
def noise() -> np.ndarray:
    """The initial noise and the draws after it, (1 + n, f, h, w, c)."""
    return goldens.draw("noise", (1 + DRAWS, FRAMES, HEIGHT, WIDTH, 4))


def conditioning(directions: int) -> Conditioning:
    """Our side of `images`."""
    embeds, noised, clean = (jnp.asarray(x[:directions, None]) for x in images())
    return Conditioning(embeds, noised, jnp.asarray(TIME_IDS[None]), clean)


def torch_noise(count: int) -> tuple[torch.Tensor, TorchDraws]:
    """The initial noise, and the first `count` of the other draws, for PyTorch."""
    initial, *others = torch.tensor(np.moveaxis(noise(), -1, -3), dtype=torch.float64)
    return initial, iter(others[:count])


def draws() -> Draws:
    """The same noise for our sampler."""
    initial, *others = noise()[:, None]
    return Draws(jnp.zeros((1, 8, 8, 3)), jnp.asarray(initial), jnp.asarray(np.array(others)))


def backward_of(method: str) -> Backward | None:
    """The backward half of a method, with the weights of `network` if it is fine-tuned."""
    if not METHODS[method].fine_tuned:
        return methods.backward_of(method, None)
    tuned = goldens.fill(abstract(UNet, UNetConfig(**UNET), jnp.float32), tensors()[1])
    return methods.backward_of(method, backward_tensors(tuned, scale=0.0))
