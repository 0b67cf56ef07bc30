"""The measured programs: a sampling step of both directions, and the decoding of a clip."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, Sharding

from svdjax.config import SVDConfig, UNetConfig, VAEConfig
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import VALUES, Backward, names_of_kinds
from svdjax.models.initialize import abstract
from svdjax.models.svd import fill, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from svdjax.parallel import divided
from svdjax.parallel.sharding import like_tree, replicated
from svdjax.sampling import edm, generation
from svdjax.sampling.prediction import Conditioning, Guide, predict_v
from svdjax.sampling.settings import Settings

# A step in the middle of the schedule, where the latents and the prediction both matter to the result.
SIGMA, SIGMA_NEXT = 1.0, 0.5

# The preset for CPUs: SVD-XT's types of layers, one layer per block; UNet at two fifths and VAE at a quarter of its widths.
SMALL = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=(1, 1, 1, 1),
        num_attention_heads=(2, 4, 8, 8),
        num_frames=14,
        sample_size=32,
    ),
    vae=VAEConfig(block_out_channels=(32, 64, 128, 128), layers_per_block=1),
)
PRESETS = {"svd-xt": SVDConfig(), "small": SMALL}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class StepInputs:
    """Inputs of a step besides weights.

    Attributes:
        latents: (1, f, h, w, c).
        sigma, sigma_next: noise levels before and after the step.
        conditioning: conditioning of both directions.
        guide: guidance scales and fusion weights.
    """

    latents: Array
    sigma: Array
    sigma_next: Array
    conditioning: Conditioning
    guide: Guide


@dataclass(frozen=True)
class Workload:
    """Arguments of `dual_step` and `decode` for one clip: arrays or `jax.ShapeDtypeStruct`s.

    Attributes:
        config: shapes of the model.
        dual_step: UNet, backward half, inputs.
        decode: VAE, latents.
    """

    config: SVDConfig
    dual_step: tuple[UNet, Backward, StepInputs]
    decode: tuple[VAE, Array]


def dual_step(unet: UNet, backward: Backward, inputs: StepInputs, mesh: Mesh | None = None) -> tuple[Array, Array]:
    """Run one Euler step of both directions with guidance, as in the sampler; return the new latents and the v-prediction.

    Args:
        unet, backward, inputs: see `Workload`.
        mesh: see `svdjax.sampling.prediction.predict_clips`.
    """
    v = predict_v(unet, backward, inputs.latents, inputs.sigma, inputs.conditioning, inputs.guide, mesh)
    denoised = edm.denoise(inputs.latents, v, inputs.sigma)
    return edm.euler_step(inputs.latents, denoised, inputs.sigma, inputs.sigma_next), v


def decode(vae: VAE, latents: Array) -> Array:
    """Decode all frames of a clip: (1, f, h, w, c) -> (1, f, H, W, 3)."""
    return vae.decode(latents)


def on_mesh(mesh: Mesh | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`dual_step` and decoding on the devices of a mesh, which gives uint8 frames, as in a run; None for one device."""
    if mesh is None:
        return dual_step, decode
    decode_frames = functools.partial(generation.decode_divided, scaling_factor=1.0, chunk=None, mesh=mesh)
    return functools.partial(dual_step, mesh=mesh), decode_frames


def make(
    config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any, *, allocate: bool, mesh: Mesh | None = None
) -> Workload:
    """A workload with random weights and inputs.

    Args:
        config: shapes of the model.
        size: (width, height) of the clip in pixels, multiples of `config.size_multiple`.
        num_frames: frames of the clip.
        dtype: dtype of weights and computation. The VAE has at least float32 if its configuration sets `force_upcast`, as with
            `svdjax.load`.
        allocate: make arrays; otherwise only their shapes.
        mesh: place all on these devices, with a clip for each part of a batch; None for one clip on one device.
    """
    dtype = jnp.dtype(dtype)
    unet = abstract(UNet, config.unet, dtype)
    vae = abstract(VAE, config.vae, stats_dtype(dtype) if config.vae.force_upcast else dtype)
    tuned = {name: leaves(unet)[name] for name in names_of_kinds(leaves(unet), VALUES)}
    width, height = (side // config.vae.down_factor for side in size)
    shape = (1 if mesh is None else divided.batch_parts(mesh), num_frames, height, width, config.vae.latent_channels)
    evaluate = (lambda fn: fn()) if allocate else jax.eval_shape
    inputs = evaluate(lambda: _inputs(shape, config.unet.cross_attention_dim[0], dtype))
    latents = evaluate(lambda: jax.random.normal(jax.random.key(1), shape))
    if allocate:
        weights = RandomWeights()
        unet = fill(unet, weights(leaves(unet)))
        vae = fill(vae, weights(leaves(vae)))
        tuned = weights(tuned)
    whole = Workload(config, (unet, Backward(tuned), inputs), (vae, latents))
    return whole if mesh is None else _placed(whole, mesh)


def _placed(workload: Workload, mesh: Mesh) -> Workload:
    """A workload on a mesh, arrays or shapes, placed as in a run."""
    (unet, backward, inputs), (vae, latents) = workload.dual_step, workload.decode

    def put(tree: Any, shardings: Any) -> Any:
        def one(x: Any, sharding: Sharding) -> Any:
            if isinstance(x, jax.Array):
                return jax.device_put(x, sharding)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        alike = isinstance(shardings, Sharding)
        return jax.tree.map(lambda x: one(x, shardings), tree) if alike else jax.tree.map(one, tree, shardings)

    everywhere = replicated(mesh)
    clips = NamedSharding(mesh, divided.batch_spec(mesh, len(latents)))
    inputs = dataclasses.replace(put(inputs, everywhere), latents=put(inputs.latents, clips))
    step = put(unet, like_tree(unet, mesh)), put(backward, everywhere), inputs
    return Workload(workload.config, step, (put(vae, like_tree(vae, mesh)), put(latents, clips)))


class RandomWeights:
    """Random weights that keep activations near 1; fast for any number of parameters.

    Values are taken cyclically from one pool. Its length is a prime number above the length of any row, so that rows differ.
    """

    _LENGTH = 4_194_319

    def __init__(self) -> None:
        pool = np.random.default_rng(0).standard_normal(self._LENGTH, np.float32)
        self._pool = np.concatenate([pool, pool])  # a whole pool starts at every position
        self._used = 0

    def __call__(self, shapes: Mapping[str, Any]) -> dict[str, Array]:
        """Values by dotted name for anything with `shape` and `dtype`."""
        return {name: self._draw(name.rpartition(".")[2], x) for name, x in shapes.items()}

    def _draw(self, kind: str, x: Any) -> Array:
        z = np.resize(self._pool[self._used : self._used + self._LENGTH], x.shape)
        self._used = (self._used + x.size) % self._LENGTH
        if kind == "kernel":
            z = z / math.sqrt(x.size // x.shape[-1])  # number of inputs of each output
        elif kind in ("scale", "bias"):
            z = np.float32(kind == "scale") + np.float32(0.1) * z
        return jnp.asarray(z, x.dtype)


def _inputs(shape: tuple[int, ...], context_dim: int, dtype: Any) -> StepInputs:
    """Random inputs in the dtypes of the sampler: embeddings in `dtype`, all others in float32."""
    keys, b = jax.random.split(jax.random.key(0), 3), shape[0]
    settings = Settings(num_frames=shape[1])
    conditioning = Conditioning(
        image_embeds=jax.random.normal(keys[0], (2, b, 1, context_dim), dtype),
        image_latents=jax.random.normal(keys[1], (2, b, *shape[2:])),
        added_time_ids=jnp.array([[settings.fps - 1, settings.motion_bucket_id, settings.noise_aug_strength]] * b, jnp.float32),
    )
    guide = Guide(
        jnp.asarray(settings.guidance_scale(), jnp.float32),
        jnp.asarray(settings.forward_weight(), jnp.float32),
    )
    return StepInputs(
        latents=math.hypot(SIGMA, 1) * jax.random.normal(keys[2], shape),
        sigma=jnp.float32(SIGMA),
        sigma_next=jnp.float32(SIGMA_NEXT),
        conditioning=conditioning,
        guide=guide,
    )
