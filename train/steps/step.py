"""A step of training as the loop runs it: state and batches placed on a mesh, the step compiled once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.losses import finetuning
from svdjax.memory.rematerialise import RunBlock, run_plainly, run_rematerialised
from svdjax.parallel import sharding
from svdjax.runtime import xla_options
from train.batches.loader import Batch
from train.run.loop import Result
from train.steps import state as states
from train.steps.state import State


def run_blocks(mesh: Mesh, remat: bool) -> dict[str, RunBlock]:
    """How a UNet's blocks are run, with gradients and without: where weights are divided, each gathers its own."""
    run = run_rematerialised if remat else run_plainly
    if mesh.shape["fsdp"] == 1:
        return {"run_block": run, "run_frozen": run_plainly}
    return {"run_block": sharding.run_gathered(mesh, run), "run_frozen": sharding.run_gathered(mesh, run_plainly)}


def finish(
    state: State,
    loss: Array,
    losses: Array,
    sigma: Array,
    gradients: Mapping[str, Array],
    optimizer: optax.GradientTransformation,
) -> tuple[State, Result]:
    """The next state from a batch's gradients, and what the step tells."""
    after = states.apply(state, gradients, optimizer)
    finite = jnp.stack([jnp.isfinite(x).all() for x in after.trained.values()]).all()
    return after, Result(loss, losses, sigma, optax.tree.norm(gradients), finite)


class Step:
    """What steps of every kind share. A kind sets `how`, `encoders` and `frozen`, networks placed on the mesh, and has

    - `_examples(encoders, arrays, step)`: what the update takes, from a batch's arrays on the devices and its number;
    - `_update(state, *frozen, examples)`: the next state and a `Result`.

    Both are jitted.

    Args:
        mesh: the devices.
        batch_size: clips of a step, over all devices.
        start: what is trained, float32 by dotted name, as it is to begin with.
        optimizer: of these.
    """

    how: Any  # a kind's settings
    encoders: Any = ()
    frozen: tuple[Any, ...] = ()

    def __init__(self, mesh: Mesh, batch_size: int, start: Mapping[str, Array], optimizer: optax.GradientTransformation):
        self.mesh, self.batch_size = mesh, batch_size
        begin = functools.partial(states.begin, optimizer=optimizer)
        start = dict(start)
        abstract = jax.eval_shape(begin, start)
        self._state_shardings = sharding.like_tree(abstract, mesh)
        self.state = jax.jit(begin, out_shardings=self._state_shardings)(start)
        self.abstract_state = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), abstract, self._state_shardings
        )
        self._rows = sharding.batch_sharding(mesh)
        self._programs: dict[str, Any] = {}

    def _draws(self, config: SVDConfig, step: Array) -> finetuning.Draws:
        """The random numbers of a step's whole batch, divided as its rows are."""
        how, factor = self.how, config.vae.down_factor
        width, height = how.size
        latents = (how.num_frames, height // factor, width // factor, config.vae.latent_channels)
        draws = finetuning.draw(how.seed, step, jnp.arange(self.batch_size), (height, width, 3), latents, how.noising)
        return jax.lax.with_sharding_constraint(draws, self._rows)

    def _examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Any:
        raise NotImplementedError

    def _update(self, state: State, *arguments: Any) -> tuple[State, Result]:
        raise NotImplementedError

    @property
    def rows(self) -> list[int]:
        """Which rows of a batch the devices of this process hold."""
        places = self._rows.addressable_devices_indices_map((self.batch_size,)).values()
        return sorted({row for (rows,) in places for row in range(*rows.indices(self.batch_size))})

    def examples(self, batch: Batch) -> Any:
        """A batch on the devices, as the update takes it."""
        arrays = {name: self._placed(values, self.rows) for name, values in batch.arrays.items()}
        return self._run("examples", (self.encoders, arrays, np.int32(batch.step)), out_shardings=self._rows)

    def _placed(self, values: np.ndarray, rows: Sequence[int]) -> Array:
        shape = (self.batch_size, *values.shape[1:])
        place = {row: i for i, row in enumerate(rows)}
        return jax.make_array_from_callback(
            shape, self._rows, lambda index: values[[place[row] for row in range(*index[0].indices(shape[0]))]]
        )

    def update(self, state: State, batch: Batch) -> tuple[State, Result]:
        """One step. The first call compiles it."""
        return self._run(
            "update",
            (state, *self.frozen, self.examples(batch)),
            donate_argnums=0,
            out_shardings=(self._state_shardings, sharding.replicated(self.mesh)),
            compiler_options=xla_options.memory_options(),
        )

    def _run(self, name: str, arguments: tuple[Any, ...], **options: Any) -> Any:
        if name not in self._programs:
            self._programs[name] = self._compiled(name, arguments, options)
        return self._programs[name](*arguments)

    def _compiled(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return jax.jit(getattr(self, f"_{name}"), **options).lower(*arguments).compile()

    def whole(self, tensors: Mapping[str, Array]) -> dict[str, np.ndarray]:
        """Tensors on the host, whole in every process; to be called by all."""
        copy = jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))
        # one after the other, for a device may have no room for all of them whole
        return {name: np.asarray(value if value.is_fully_replicated else copy(value)) for name, value in tensors.items()}
