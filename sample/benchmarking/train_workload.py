"""The measured training step: one step of the backward fine-tune on one batch of encoded videos."""

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
from svdjax.devices import xla_options
from svdjax.losses import finetuning
from svdjax.losses.finetuning import Examples
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.initialize import abstract
from svdjax.models.svd import fill, leaves
from svdjax.models.unet import UNet
from svdjax.parallel import sharding
from svdjax.sampling.conditioning import added_time_ids
from train.run.result import Result
from train.steps import state as states
from train.steps.finetuning import make_update
from train.steps.placing import placed_as
from train.steps.settings import FinetuningSettings
from train.steps.state import State


@dataclass(frozen=True, kw_only=True)
class TrainWorkload:
    """One training step and its arguments: arrays or `jax.ShapeDtypeStruct`s, placed on a mesh.

    Attributes:
        config: shapes of the model.
        settings: settings of the step.
        mesh: the devices.
        update: (state, frozen UNet, carried tensors, examples) -> (next state, result).
        arguments: arguments of `update`.
    """

    config: SVDConfig
    settings: FinetuningSettings
    mesh: Mesh
    update: Callable[..., tuple[State, Result]]
    arguments: tuple[State, UNet, dict[str, Array], Examples]

    def jit_options(self) -> dict[str, Any]:
        """Options of `jax.jit` for `update`, as in training; `timing.compile_program` adds the donation of the old state."""
        outputs = (sharding.like_tree(self.arguments[0], self.mesh), sharding.replicated(self.mesh))
        return {"out_shardings": outputs, "compiler_options": xla_options.memory_options()}


def make(config: SVDConfig, settings: FinetuningSettings, dtype: Any, mesh: Mesh, *, allocate: bool) -> TrainWorkload:
    """A training step with random weights and a random batch.

    Args:
        config: shapes of the model.
        settings: settings of the step.
        dtype: dtype of frozen weights and computation; trained tensors are float32.
        mesh: from `svdjax.parallel.mesh.make_mesh`.
        allocate: make arrays; otherwise only their shapes.
    """
    unet = abstract(UNet, config.unet, jnp.dtype(dtype))
    shapes = leaves(unet)
    own = {name: jax.ShapeDtypeStruct(shapes[name].shape, jnp.float32) for name in names_of_kinds(shapes, VALUES)}
    if allocate:
        weights = workloads.RandomWeights()
        values, own = _place(weights(shapes), mesh), _place(weights(own), mesh)
    else:
        values, own = _place_shapes(shapes, mesh), _place_shapes(own, mesh)
    names = finetuning.trained_names(own, settings.rotation)
    trained = {name: own[name] for name in names}
    carried = {name: value for name, value in own.items() if name not in trained}
    begin = functools.partial(states.begin, optimizer=finetuning.optimizer(settings.learning_rate))
    make_examples = functools.partial(_examples, config, settings)
    if allocate:
        state = jax.jit(begin, out_shardings=sharding.like_tree(jax.eval_shape(begin, trained), mesh))(trained)
        examples = jax.jit(make_examples, out_shardings=sharding.batch_sharding(mesh))()
    else:
        state = jax.eval_shape(begin, trained)
        state = placed_as(state, sharding.like_tree(state, mesh))
        examples = placed_as(jax.eval_shape(make_examples), sharding.batch_sharding(mesh))
    return TrainWorkload(
        config=config,
        settings=settings,
        mesh=mesh,
        update=make_update(mesh, settings),
        arguments=(state, fill(unet, values), carried, examples),
    )


def _place(values: Mapping[str, Array], mesh: Mesh) -> dict[str, Array]:
    return {name: jax.device_put(x, sharding.sharding_of(name, x.shape, mesh)) for name, x in values.items()}


def _place_shapes(shapes: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    where = functools.partial(sharding.sharding_of, mesh=mesh)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(name, x.shape)) for name, x in shapes.items()}


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
