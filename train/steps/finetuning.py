"""The training step of the backward fine-tune."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.losses import finetuning
from svdjax.losses.finetuning import Examples, Moments
from svdjax.memory.programs import Program
from svdjax.models.backward import QUERIES, VALUES, names_of_kinds
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import Model
from svdjax.models.svd import NETWORKS, SVD, abstract_model, fill, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE, encoding_part
from svdjax.parallel import sharding
from svdjax.parallel.mesh import BATCH_AXES
from svdjax.sampling.settings import Settings
from train.run.result import Result
from train.steps.encoders import FRAMES_PER_DEVICE, jitted_frame_encoder
from train.steps.placing import placed_as
from train.steps.settings import FinetuningSettings
from train.steps.state import State
from train.steps.step import Step, finish, run_blocks

Update = Callable[[State, UNet, Mapping[str, Array], Examples], tuple[State, Result]]


def make_update(mesh: Mesh, settings: FinetuningSettings) -> Update:
    """The function of one step, not jitted: (state, frozen UNet, carried tensors, examples) -> (next state, result)."""
    optimizer = finetuning.optimizer(settings.learning_rate)
    run_block, run_frozen = run_blocks(mesh, settings.remat)

    def update(state: State, unet: UNet, carried: Mapping[str, Array], examples: Examples) -> tuple[State, Result]:
        loss, losses, gradients = finetuning.loss_and_gradients(
            state.trained,
            unet,
            examples,
            accumulate=settings.accumulate,
            carried=carried,
            rotation=settings.rotation,
            run_block=run_block,
            run_frozen=run_frozen,
        )
        return finish(state, gradients, optimizer, loss=loss, losses=losses, sigma=examples.sigma)

    return update


class Finetuning(Step):
    """The fine-tuning step of a model on a mesh.

    Args:
        model: the model or its shapes, placed as by `encoders.where_for`.
        mesh: its mesh.
        settings: the step's settings.
        start: the backward tensors before the first step or their shapes, float32 by name; those that aren't trained are
            carried along unchanged.
        cached: whether batches come from the latent cache; then examples need no image encoder.
        offload: see `Step`.
    """

    def __init__(
        self,
        model: SVD,
        mesh: Mesh,
        settings: FinetuningSettings,
        start: Mapping[str, Any],
        cached: bool = False,
        offload: bool = False,
    ):
        self.config, self.settings, self.cached = model.config, settings, cached
        trained = {name: start[name] for name in finetuning.trained_names(start, settings.rotation)}
        self._update = make_update(mesh, settings)
        super().__init__(
            mesh,
            settings.batch_size,
            trained,
            finetuning.optimizer(settings.learning_rate),
            encoders=self._encoders(model),
            frozen=(model.unet, _without(start, trained)),
            offload=offload,
        )

    def _encoders(self, model: SVD) -> tuple[CLIPVision | None, VAE]:
        return None if self.cached else model.image_encoder, encoding_part(model.vae)

    def load(self, model: SVD, start: Mapping[str, Array]) -> None:
        """Replace the shapes that the step was made from by arrays; arguments as for the constructor."""
        trained = {name: start[name] for name in self.abstract_state.trained}
        self.encoders, self.frozen = self._encoders(model), (model.unet, _without(start, trained))
        self.begin(trained)

    @property
    def unet(self) -> UNet:
        """The frozen UNet."""
        return self.frozen[0]

    def tensors(self, state: State) -> dict[str, Array]:
        """The backward tensors of a state, float32 by name."""
        return {**self.frozen[1], **state.trained}

    def in_host_memory(self, network: Model) -> Model:
        """A copy of a network with its tensors as numpy arrays; all processes must call it."""
        values: dict[str, Any] = self.whole(leaves(network))
        return fill(network, values)

    @contextlib.contextmanager
    def unet_in_host_memory(self) -> Iterator[UNet]:
        """The UNet as numpy arrays; within the block it is not on the devices, and no step can be done."""
        unet, carried = self.frozen
        waiting = self.in_host_memory(unet)
        places = jax.tree.map(lambda x: x.format, unet)
        self.frozen = None
        for x in jax.tree.leaves(unet):
            x.delete()
        try:
            yield waiting
        finally:
            self.frozen = jax.device_put(waiting, places), carried

    def make_examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Examples:
        image_encoder, vae = sharding.gathered(encoders, self.mesh)
        noising = self.settings.noising
        draws = self._draws(self.settings, self.config, step)
        if not self.cached:
            return finetuning.encode_clips(image_encoder, vae, arrays["clips"], draws, noising)
        moments = Moments(arrays["mean"], arrays["logvar"], arrays["image_embeds"])
        return finetuning.encode_ends(vae, arrays["keyframes"], moments, draws, noising)

    def next_state(self, state: State, frozen: Any, examples: Examples) -> tuple[State, Result]:
        unet, carried = frozen
        return self._update(state, unet, carried, examples)


def _without(tensors: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tensors.items() if name not in others}


@dataclass(frozen=True, kw_only=True)
class TrainWork:
    """A fine-tune before anything is loaded.

    Attributes:
        config: shapes of the model.
        settings: settings of a step.
        dtype: dtype of frozen weights and computation.
        mesh: the devices.
        cached: whether clips come from the latent cache.
        validation: settings of validation clips; None without them.
    """

    config: SVDConfig
    settings: FinetuningSettings
    dtype: Any
    mesh: Mesh
    cached: bool = False
    validation: Settings | None = None

    @functools.cached_property
    def model(self) -> SVD:
        """Shapes of the networks, placed on the mesh."""
        model = abstract_model(self.config, self.dtype, None)
        networks = {name: getattr(model, name) for name in NETWORKS}
        placed = {name: placed_as(network, sharding.like_tree(network, self.mesh)) for name, network in networks.items()}
        return dataclasses.replace(model, **placed)

    def step(self, accumulate: int, offload: bool) -> Finetuning:
        """The step, made from shapes with their shardings."""
        tensors = leaves(self.model.unet)
        start = {
            name: jax.ShapeDtypeStruct(tensors[name].shape, jnp.float32, sharding=tensors[name].sharding)
            for name in names_of_kinds(tensors, self.kinds)
        }
        settings = dataclasses.replace(self.settings, accumulate=accumulate)
        return Finetuning(self.model, self.mesh, settings, start, self.cached, offload)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of backward tensors that the step starts from."""
        return VALUES if self.settings.rotation else VALUES + QUERIES

    def arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the arrays of a batch (see `train.batches.loader`)."""
        b, f, (width, height) = self.settings.batch_size, self.settings.num_frames, self.settings.size
        if not self.cached:
            return {"clips": jax.ShapeDtypeStruct((b, f, height, width, 3), np.uint8)}
        factor, vae = self.config.vae.down_factor, self.config.vae
        moments = jax.ShapeDtypeStruct((b, f, height // factor, width // factor, vae.latent_channels), np.float32)
        embeds = jax.ShapeDtypeStruct((b, 2, 1, self.config.image_encoder.projection_dim), np.float32)
        keyframes = jax.ShapeDtypeStruct((b, 2, height, width, 3), np.uint8)
        return {"keyframes": keyframes, "image_embeds": embeds, "mean": moments, "logvar": moments}

    def cache_program(self) -> Program:
        """The program that fills the latent cache."""
        devices = Mesh(np.asarray(self.mesh.local_devices), ("frames",))
        encode, replicated, divided = jitted_frame_encoder(devices)
        width, height = self.settings.size
        frames = jax.ShapeDtypeStruct((FRAMES_PER_DEVICE * devices.size, height, width, 3), np.uint8, sharding=divided)
        networks = placed_as((self.model.image_encoder, encoding_part(self.model.vae)), replicated)
        return Program(name="cache_latents", fn=encode, args=(*networks, frames))

    def parts(self) -> list[int]:
        """Numbers of parts that a step can be done in, from the one of the settings."""
        per_device = self.settings.batch_size // math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        return [n for n in range(self.settings.accumulate, per_device + 1) if per_device % n == 0]
