"""A training step: state and batches on a mesh, and two programs that are compiled once."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.devices import xla_options
from svdjax.devices.target import target
from svdjax.losses.training_noise import TrainingDraws, draw_training_noise
from svdjax.memory.programs import Program, ProgramMemory, in_formats, memory_of
from svdjax.memory.rematerialise import RunBlock, run_plainly, run_rematerialised
from svdjax.parallel import sharding
from train.batches.loader import Batch
from train.run.result import Result
from train.steps import state as states
from train.steps.placing import placed_as
from train.steps.settings import FinetuningSettings, PretrainingSettings
from train.steps.state import State


def run_blocks(mesh: Mesh, remat: bool) -> tuple[RunBlock, RunBlock]:
    """Functions that run a UNet's blocks with and without gradients; each block gathers its weights if they are divided."""
    run = run_rematerialised if remat else run_plainly
    if mesh.shape["fsdp"] == 1:
        return run, run_plainly
    return sharding.run_gathered(mesh, run), sharding.run_gathered(mesh, run_plainly)


def finish(
    state: State,
    gradients: Mapping[str, Array],
    optimizer: optax.GradientTransformation,
    *,
    loss: Array,
    losses: Array,
    sigma: Array,
) -> tuple[State, Result]:
    """Apply a batch's gradients: the next state and the result of the step (see `Result`)."""
    after = states.apply(state, gradients, optimizer)
    finite = jnp.stack([jnp.isfinite(x).all() for x in after.trained.values()]).all()
    norm = optax.tree.norm(gradients)
    return after, Result(loss=loss, losses=losses, sigma=sigma, gradient_norm=norm, finite=finite)


class Step(ABC):
    """A training step on a mesh. A subclass defines `make_examples` and `next_state`, which are jitted.

    A step of abstract arrays, with shardings on the mesh, can be planned (`programs`, `compile`) before anything is loaded.

    Args:
        mesh: the devices.
        batch_size: clips per step, over all devices.
        trained: the trained tensors before the first step, float32 by dotted name; only their shapes are used.
        optimizer: the optimizer of these tensors.
        encoders: networks that make examples of batches, placed on the mesh; with `offload` in host memory.
        frozen: arrays and networks that the update reads besides state and examples, placed on the mesh.
        offload: whether the encoders are on the devices only while examples are made.

    Attributes:
        state: the state before the first step, on the mesh; see `begin`.
        abstract_state: its shapes, dtypes and shardings.
    """

    state: State

    def __init__(
        self,
        mesh: Mesh,
        batch_size: int,
        trained: Mapping[str, Any],
        optimizer: optax.GradientTransformation,
        *,
        encoders: Any = (),
        frozen: Any = (),
        offload: bool = False,
    ):
        self.mesh, self.batch_size, self.encoders, self.offload = mesh, batch_size, encoders, offload
        self.frozen: Any = frozen
        self._begin = functools.partial(states.begin, optimizer=optimizer)
        abstract = jax.eval_shape(self._begin, dict(trained))
        self._state_shardings = sharding.like_tree(abstract, mesh)
        self.abstract_state: State = placed_as(abstract, self._state_shardings)
        self._row_sharding = sharding.batch_sharding(mesh)
        self._programs: dict[Callable[..., Any], Any] = {}
        self._laid_out = False

    def begin(self, trained: Mapping[str, Array]) -> None:
        """Make the state before the first step from the trained tensors."""
        self.state = jax.jit(self._begin, out_shardings=self._state_shardings)(dict(trained))

    @abstractmethod
    def make_examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Any:
        """The examples of a batch, on which `next_state` trains.

        Args:
            encoders: `self.encoders`.
            arrays: the batch, (batch_size, ...) each, divided among the devices.
            step: number of the step, int32 ().
        """

    @abstractmethod
    def next_state(self, state: State, frozen: Any, examples: Any) -> tuple[State, Result]:
        """The next state and the result of the step.

        Args:
            state: the state before the step.
            frozen: `self.frozen`.
            examples: from `make_examples`.
        """

    def encoders_on_mesh(self) -> Any:
        """A copy of the encoders with the tensors that `make_examples` uses on the mesh."""
        return jax.device_put(self.encoders, sharding.like_tree(self.encoders, self.mesh))

    @property
    def rows(self) -> list[int]:
        """The rows of a batch that are on the devices of this process."""
        indices = self._row_sharding.addressable_devices_indices_map((self.batch_size,)).values()
        return sorted({row for index in indices if index for row in range(*index[0].indices(self.batch_size))})

    def programs(self, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[Program, Program]:
        """The programs of a step, which make the examples and the update.

        Args:
            arrays: shapes and dtypes of the arrays of a batch, (batch_size, ...) each.
        """
        arguments = (self.encoders, placed_as(dict(arrays), self._row_sharding), jax.ShapeDtypeStruct((), jnp.int32))
        encode = Program(name="encode", fn=self.make_examples, args=arguments, jit=self._encode_options)
        examples = placed_as(jax.eval_shape(self.make_examples, *arguments), self._row_sharding)
        arguments = (self.abstract_state, self.frozen, examples)
        return encode, Program(name="train_step", fn=self.next_state, args=arguments, jit=self._update_options(arguments))

    def compile(self, program: Program) -> ProgramMemory:
        """Compile one of `programs`, for the steps too."""
        self._programs[program.fn] = self._compiled(program.fn, program.args, dict(program.jit))
        return memory_of(self._programs[program.fn])

    def examples(self, batch: Batch) -> Any:
        """The examples of a batch, on the devices."""
        arrays = {name: self._placed(values, self.rows) for name, values in batch.arrays.items()}
        arguments = (self.encoders_on_mesh() if self.offload else self.encoders, arrays, np.int32(batch.step))
        return self._run(self.make_examples, arguments, self._encode_options)

    def update(self, state: State, batch: Batch) -> tuple[State, Result]:
        """Do one step; the first call compiles it. The memory of `state` is reused."""
        if self.offload:  # encoders and steps reuse each other's memory: wait for the step before
            jax.block_until_ready(state.step)
        examples = self.examples(batch)
        if self.offload:
            jax.block_until_ready(examples)
        if self.next_state not in self._programs:
            arguments = (state, self.frozen, examples)
            arguments = placed_as(arguments, jax.tree.map(lambda x: x.sharding, arguments))
            self._programs[self.next_state] = self._compiled(self.next_state, arguments, self._update_options(arguments))
        if not self._laid_out:
            self.frozen = in_formats(self.frozen, self._programs[self.next_state].input_formats[0][1])
            self._laid_out = True
        return self._programs[self.next_state](state, self.frozen, examples)

    def whole(self, tensors: Mapping[str, Array | np.ndarray]) -> dict[str, np.ndarray]:
        """Copies of divided tensors on the host, complete in every process; all processes must call it."""

        def on_host(value: Array | np.ndarray) -> np.ndarray:
            if isinstance(value, np.ndarray) or value.is_fully_replicated:
                return np.asarray(value)
            return np.asarray(self._replicate(value))

        return {name: on_host(value) for name, value in tensors.items()}  # one by one: a device may not have memory for all

    @functools.cached_property
    def _replicate(self) -> Callable[[Array], Array]:
        """Copies an array to every device. It is compiled once per shape, so the object must stay the same."""
        return jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))

    def _draws(self, settings: FinetuningSettings | PretrainingSettings, config: SVDConfig, step: Array) -> TrainingDraws:
        """The random numbers of a step for the whole batch, divided among the devices like its rows."""
        factor = config.vae.down_factor
        width, height = settings.size
        latents = (settings.num_frames, height // factor, width // factor, config.vae.latent_channels)
        draws = draw_training_noise(
            settings.seed, step, jnp.arange(self.batch_size), (height, width, 3), latents, settings.noising
        )
        return jax.lax.with_sharding_constraint(draws, self._row_sharding)

    def _placed(self, values: np.ndarray, rows: Sequence[int]) -> Array:
        """The array of a whole batch, from the rows of this process."""
        shape = (self.batch_size, *values.shape[1:])
        place = {row: i for i, row in enumerate(rows)}

        def read(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return values[[place[row] for row in range(*index[0].indices(self.batch_size))]]

        return jax.make_array_from_callback(shape, self._row_sharding, read)

    @property
    def _encode_options(self) -> dict[str, Any]:
        return {"out_shardings": self._row_sharding}

    def _update_options(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        options = {
            "donate_argnums": 0,
            "out_shardings": (self._state_shardings, sharding.replicated(self.mesh)),
            "compiler_options": xla_options.memory_options(),
        }
        if self._chooses_layouts:
            state, frozen, examples = jax.tree.map(lambda x: x.sharding, arguments)
            options["in_shardings"] = state, jax.tree.map(lambda where: Format(Layout.AUTO, where), frozen), examples
        return options

    @property
    def _chooses_layouts(self) -> bool:
        """Whether XLA chooses the memory layouts of `frozen`.

        cuDNN's convolutions take kernels in another layout than the models'. A step uses each kernel several times, so it keeps
        copies of all of them: 1.5 GB for SVD-XT. On a mesh with divided weights the gathered kernels are copies anyway.
        """
        return target().nvidia and self.mesh.shape["fsdp"] == self.mesh.shape["tensor"] == 1

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Call `jax.jit(function, **options)` on arguments of the same shapes each time."""
        if function not in self._programs:
            self._programs[function] = self._compiled(function, arguments, options)
        return self._programs[function](*arguments)

    def _compiled(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return jax.jit(function, **options).lower(*arguments).compile()
