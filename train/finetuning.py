"""The backward fine-tune as the loop runs it: weights and batches placed on a mesh, the step compiled."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from svdjax import compiler, finetune, sharding
from svdjax.finetune import Examples, Moments, Noising
from svdjax.model import SVD
from svdjax.rematerialise import RunBlock, run_plainly, run_rematerialised
from svdjax.unet import UNet
from train import state as states
from train.loader import Batch
from train.loop import Result
from train.state import State


@dataclass(frozen=True)
class How:
    """What fixes a step besides its weights and its batch.

    Attributes:
        batch_size: clips of a step, over all devices.
        num_frames: of a clip.
        size: (width, height) of a clip in pixels.
        seed: of sigmas and noises.
        learning_rate: of AdamW.
        accumulate: parts that a step is done in.
        rotation: whether the backward pass is given the rotated forward maps.
        remat: whether activations are computed again instead of kept.
        noising: levels, and what the UNet is told.
    """

    batch_size: int
    num_frames: int
    size: tuple[int, int]
    seed: int = 0
    learning_rate: float = 1e-4
    accumulate: int = 1
    rotation: bool = True
    remat: bool = True
    noising: Noising = dataclasses.field(default_factory=Noising)


def run_blocks(mesh: Mesh, how: How) -> dict[str, RunBlock]:
    """How blocks are run (`svdjax.finetune.clip_losses`): each gathers its weights when it needs them, if they are divided."""
    run = run_rematerialised if how.remat else run_plainly
    if mesh.shape["fsdp"] == 1:
        return {"run_block": run, "run_frozen": run_plainly}
    return {"run_block": sharding.run_gathered(mesh, run), "run_frozen": sharding.run_gathered(mesh, run_plainly)}


def make_update(mesh: Mesh, how: How) -> Callable[[State, UNet, Mapping[str, Array], Examples], tuple[State, Result]]:
    """One step: (state, frozen UNet, carried tensors, examples) -> the next state and what the step tells; to be jitted."""
    optimizer = finetune.optimizer(how.learning_rate)

    def update(state: State, unet: UNet, carried: Mapping[str, Array], examples: Examples) -> tuple[State, Result]:
        loss, losses, gradients = finetune.loss_and_gradients(
            state.trained,
            unet,
            examples,
            accumulate=how.accumulate,
            carried=carried,
            rotation=how.rotation,
            **run_blocks(mesh, how),
        )
        after = states.apply(state, gradients, optimizer)
        finite = jnp.stack([jnp.isfinite(x).all() for x in after.trained.values()]).all()
        return after, Result(loss, losses, examples.sigma, optax.tree.norm(gradients), finite)

    return update


class Finetuning:
    """The step of one model on one mesh.

    Args:
        model: with weights placed by `svdjax.sharding`.
        mesh: its mesh.
        how: the step's settings.
        start: the backward direction's tensors to begin with, float32 by name; those that aren't trained are carried.
    """

    def __init__(self, model: SVD, mesh: Mesh, how: How, start: Mapping[str, Array]):
        self.model, self.mesh, self.how = model, mesh, how
        names = finetune.trained_names(start, how.rotation)
        trained = {name: start[name] for name in names}
        self.carried = {name: value for name, value in start.items() if name not in trained}
        begin = functools.partial(states.begin, optimizer=finetune.optimizer(how.learning_rate))
        abstract = jax.eval_shape(begin, trained)
        self._state_shardings = sharding.like_tree(abstract, mesh)
        self.state = jax.jit(begin, out_shardings=self._state_shardings)(trained)
        self.abstract_state = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, self._state_shardings
        )
        self._rows = sharding.batch_sharding(mesh)
        self._prepare = jax.jit(self._examples, out_shardings=self._rows)
        self._step: Any = None
        width, height = how.size
        factor = model.config.vae.down_factor
        self._image_shape = (height, width, 3)
        self._latent_shape = (how.num_frames, height // factor, width // factor, model.config.vae.latent_channels)

    @property
    def rows(self) -> list[int]:
        """Which rows of a batch the devices of this process hold."""
        places = self._rows.addressable_devices_indices_map((self.how.batch_size,)).values()
        return sorted({row for (rows,) in places for row in range(*rows.indices(self.how.batch_size))})

    def _examples(self, networks: tuple[Any, Any], arrays: dict[str, Array], step: Array) -> Examples:
        image_encoder, vae = sharding.gathered(networks, self.mesh)
        how = self.how.noising
        draws = finetune.draw(self.how.seed, step, jnp.arange(self.how.batch_size), self._image_shape, self._latent_shape, how)
        draws = jax.lax.with_sharding_constraint(draws, self._rows)
        if "clips" in arrays:
            return finetune.encode_clips(image_encoder, vae, arrays["clips"], draws, how)
        moments = Moments(arrays["mean"], arrays["logvar"], arrays["image_embeds"])
        return finetune.encode_ends(vae, arrays["keyframes"], moments, draws, how)

    def examples(self, batch: Batch) -> Examples:
        """A batch, encoded and noised on the devices."""
        arrays = {name: self._placed(values, self.rows) for name, values in batch.arrays.items()}
        return self._prepare((self.model.image_encoder, self.model.vae), arrays, np.int32(batch.step))

    def _placed(self, values: np.ndarray, rows: Sequence[int]) -> Array:
        shape = (self.how.batch_size, *values.shape[1:])
        place = {row: i for i, row in enumerate(rows)}
        return jax.make_array_from_callback(
            shape, self._rows, lambda index: values[[place[row] for row in range(*index[0].indices(shape[0]))]]
        )

    def update(self, state: State, batch: Batch) -> tuple[State, Result]:
        """One step. The first call compiles it."""
        arguments = (state, self.model.unet, self.carried, self.examples(batch))
        if self._step is None:
            self._step, self.compile_seconds = self._compiled(arguments)
        return self._step(*arguments)

    def _compiled(self, arguments: tuple[Any, ...]) -> tuple[Any, float]:
        begun = time.monotonic()
        step = jax.jit(
            make_update(self.mesh, self.how),
            donate_argnums=0,
            out_shardings=(self._state_shardings, sharding.replicated(self.mesh)),
            compiler_options=compiler.memory_options(),
        )
        return step.lower(*arguments).compile(), time.monotonic() - begun

    def whole(self, tensors: Mapping[str, Array]) -> dict[str, np.ndarray]:
        """Tensors on the host, whole in every process; to be called by all."""
        everywhere = jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))(dict(tensors))
        return {name: np.asarray(value) for name, value in everywhere.items()}

    def frame_encoder(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Frames uint8 (n, H, W, 3) -> mean, logvar, image_embeds on the host, by this process alone."""
        networks = (self.model.image_encoder, self.model.vae)
        if jax.process_count() > 1:  # the others encode other frames, so no program may run over all devices
            networks = jax.tree.map(jnp.asarray, multihost_utils.process_allgather(networks, tiled=True))
        encode = jax.jit(finetune.encode_frames)
        return lambda frames: jax.device_get(encode(*networks, frames))
