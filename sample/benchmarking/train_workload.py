"""The measured training step: one step of `train.backward` on one batch of encoded videos."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from sample.benchmarking import workloads
from svdjax.config import SVDConfig
from svdjax.losses.finetuning import Examples
from svdjax.models.svd import fill, leaves
from svdjax.models.unet import UNet
from svdjax.parallel import sharding
from svdjax.sampling.conditioning import added_time_ids
from train.run.result import Result
from train.steps.finetuning import TrainWork
from train.steps.settings import FinetuningSettings
from train.steps.state import State


@dataclass(frozen=True, kw_only=True)
class TrainWorkload:
    """One training step and its arguments: arrays or `jax.ShapeDtypeStruct`s, placed on a mesh.

    Attributes:
        config: shapes of the model.
        settings: settings of the step.
        mesh: the devices.
        update: (state, (frozen UNet, carried tensors), examples) -> (next state, result); as in training.
        jit: options of `jax.jit` for `update`, as in training; in addition the state is donated.
        arguments: arguments of `update`.
    """

    config: SVDConfig
    settings: FinetuningSettings
    mesh: Mesh
    update: Callable[..., tuple[State, Result]]
    jit: Mapping[str, Any]
    arguments: tuple[State, tuple[UNet, dict[str, Array]], Examples]


def make(config: SVDConfig, settings: FinetuningSettings, dtype: Any, mesh: Mesh, *, allocate: bool) -> TrainWorkload:
    """A training step with random weights and a random batch.

    Args:
        config: shapes of the model.
        settings: settings of the step.
        dtype: dtype of frozen weights and computation; trained tensors are float32.
        mesh: from `svdjax.parallel.mesh.make_mesh`.
        allocate: make arrays; otherwise only their shapes.
    """
    work = TrainWork(config=config, settings=settings, dtype=dtype, mesh=mesh)
    step = work.step(settings.accumulate, offload=False)
    _, program = step.programs(work.arrays())
    arguments: Any = program.args
    if allocate:
        weights = workloads.RandomWeights()
        _, (unet, carried), _ = program.args
        unet = fill(unet, _place(weights(leaves(unet)), mesh))
        trained, carried = (_place(weights(tensors), mesh) for tensors in (step.abstract_state.trained, carried))
        step.begin(trained)
        make_examples = functools.partial(_examples, config, settings)
        arguments = step.state, (unet, carried), jax.jit(make_examples, out_shardings=sharding.batch_sharding(mesh))()
    jit = {name: value for name, value in program.jit.items() if name != "donate_argnums"}
    return TrainWorkload(config=config, settings=settings, mesh=mesh, update=step.next_state, jit=jit, arguments=arguments)


def _place(values: Mapping[str, Array], mesh: Mesh) -> dict[str, Array]:
    return {name: jax.device_put(x, sharding.sharding_of(name, x.shape, mesh)) for name, x in values.items()}


def _examples(config: SVDConfig, settings: FinetuningSettings) -> Examples:
    """A random batch with the shapes and dtypes of encoded videos."""
    keys = jax.random.split(jax.random.key(0), 4)
    width, height = (side // config.vae.down_factor for side in settings.size)
    b, c = settings.batch_size, config.vae.latent_channels
    noising = settings.noising
    ids = added_time_ids(noising.fps, noising.motion_bucket_id, noising.noise_aug_strength)
    return Examples(
        latents=jax.random.normal(keys[0], (b, settings.num_frames, height, width, c)),
        noise=jax.random.normal(keys[1], (b, settings.num_frames, height, width, c)),
        sigma=jnp.full(b, workloads.SIGMA),
        image_embeds=jax.random.normal(keys[2], (b, 2, 1, config.unet.cross_attention_dim[0])),
        image_latents=jax.random.normal(keys[3], (b, 2, height, width, c)),
        added_time_ids=jnp.tile(ids.reshape(1, -1), (b, 1)),
    )
