"""What the benchmark measures: one sampling step of both directions, and the decoding of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from svdjax import edm
from svdjax.backward import Backward
from svdjax.blocking import stats_dtype
from svdjax.config import SVDConfig, UNetConfig, VAEConfig
from svdjax.initialize import abstract, random
from svdjax.model import leaves
from svdjax.overlay import VALUES, expected_names
from svdjax.sampler import Conditioning, Guide, predict_v
from svdjax.settings import Settings
from svdjax.unet import UNet
from svdjax.vae import VAE

# A step in the middle of the schedule, where latents and prediction both matter to the result.
SIGMA, SIGMA_NEXT = 1.0, 0.5

# The fixed preset for CPUs: a quarter of SVD-XT's arithmetic a pixel and less, everything else of the same kind.
SMALL = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=1,
        num_attention_heads=(2, 4, 8, 8),
        num_frames=14,
        sample_size=32,
    ),
    vae=VAEConfig(block_out_channels=(32, 64, 128, 128), layers_per_block=1),
)
PRESETS = {"svd-xt": SVDConfig(), "small": SMALL}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepInputs:
    """What a step is given besides weights: latents (1, f, h, w, c), the noise levels from and to, and the rest."""

    latents: Array
    sigma: Array
    sigma_next: Array
    conditioning: Conditioning
    guide: Guide


@dataclass(frozen=True)
class Workload:
    """One clip of one model: the arguments of `dual_step` and `decode`, values or `jax.ShapeDtypeStruct`s.

    Attributes:
        config: shapes of the model.
        dual_step: UNet, backward half, inputs.
        decode: VAE, latents.
    """

    config: SVDConfig
    dual_step: tuple[UNet, Backward, StepInputs]
    decode: tuple[VAE, Array]


def dual_step(unet: UNet, backward: Backward, inputs: StepInputs) -> tuple[Array, Array]:
    """One Euler step of both directions under guidance, as the sampler does it: the new latents and the v-prediction."""
    v = predict_v(unet, backward, inputs.latents, inputs.sigma, inputs.conditioning, inputs.guide)
    denoised = edm.denoise(inputs.latents, v, inputs.sigma)
    return edm.euler_step(inputs.latents, denoised, inputs.sigma, inputs.sigma_next), v


def decode(vae: VAE, latents: Array) -> Array:
    """All frames of a clip (1, f, h, w, c) -> (1, f, H, W, 3)."""
    return vae.decode(latents)


def make(config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any, *, allocate: bool) -> Workload:
    """A workload with random weights and inputs.

    Args:
        config: shapes of the model.
        size: (width, height) of the clip in pixels, multiples of `config.size_multiple`.
        num_frames: of the clip.
        dtype: of weights and computation. The VAE is at least float32 where its configuration says so, as after
            `svdjax.load`.
        allocate: whether there are values, or shapes alone.
    """
    dtype = jnp.dtype(dtype)
    build = random if allocate else abstract
    evaluate = (lambda fn: fn()) if allocate else jax.eval_shape
    unet = build(UNet, config.unet, dtype)
    vae = build(VAE, config.vae, stats_dtype(dtype) if config.vae.force_upcast else dtype)
    width, height = (side // config.vae.down_factor for side in size)
    shape = (1, num_frames, height, width, config.vae.latent_channels)
    forward = leaves(unet)
    tuned = {name: forward[name] for name in expected_names(forward, VALUES)}
    backward = Backward(evaluate(lambda: _moved(tuned)))
    inputs = evaluate(lambda: _inputs(shape, config.unet.cross_attention_dim[0], dtype))
    latents = evaluate(lambda: jax.random.normal(jax.random.key(1), shape))
    return Workload(config, (unet, backward, inputs), (vae, latents))


def _moved(tuned: dict[str, Array]) -> dict[str, Array]:
    """Other values of the same size: those of a backward direction that differs from the forward one."""
    moved = {}
    for i, (name, x) in enumerate(tuned.items()):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(2), i), x.shape, x.dtype)
        moved[name] = noise / math.sqrt(x.shape[0])
    return moved


def _inputs(shape: tuple[int, ...], context_dim: int, dtype: Any) -> StepInputs:
    """Random inputs in the dtypes that the sampler has them in: float32, apart from the embeddings."""
    keys = jax.random.split(jax.random.key(0), 3)
    settings = Settings(num_frames=shape[1])
    conditioning = Conditioning(
        image_embeds=jax.random.normal(keys[0], (2, 1, 1, context_dim), dtype),
        image_latents=jax.random.normal(keys[1], (2, 1, *shape[2:])),
        added_time_ids=jnp.array([[settings.fps - 1, settings.motion_bucket_id, settings.noise_aug_strength]], jnp.float32),
    )
    guide = Guide(
        jnp.asarray(settings.guidance_scale(), jnp.float32),
        jnp.asarray(settings.forward_weight(), jnp.float32),
    )
    latents = math.hypot(SIGMA, 1) * jax.random.normal(keys[2], shape)
    return StepInputs(latents, jnp.float32(SIGMA), jnp.float32(SIGMA_NEXT), conditioning, guide)
