"""Base class of the stages of training from scratch: VAE, image encoder, UNet."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.data.clip_order import Order
from svdjax.errors import InputError
from svdjax.losses.autoencoding import Autoencoding
from svdjax.losses.training_noise import Noising
from svdjax.memory import accumulation
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, fill, leaves
from svdjax.parallel import sharding
from svdjax.parallel.mesh import BATCH_AXES
from train.batches.loader import Loader
from train.options.base import BaseOptions
from train.run.result import Result
from train.run.session import Batches, Setup
from train.steps import state as states
from train.steps.optimizer import average_of, optimizer
from train.steps.settings import PretrainingSettings
from train.steps.starting_weights import StartingModel
from train.steps.state import State
from train.steps.step import Step, finish


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A run of a stage before any weights are loaded.

    Attributes:
        options: the command line.
        model: the checkpoint or preset that the run starts from.
        config: configuration of the model to train.
        setup: data and devices.
        order: order of the clips.
    """

    options: BaseOptions
    model: StartingModel
    config: SVDConfig
    setup: Setup
    order: Order

    @property
    def settings(self) -> PretrainingSettings:
        """The settings of a step."""
        options, setup = self.options, self.setup
        mean, std = options.log_sigma
        return PretrainingSettings(
            batch_size=setup.batch_size,
            num_frames=setup.data.num_frames,
            size=setup.data.size,
            steps=options.steps,
            seed=options.seed,
            learning_rate=options.learning_rate,
            warmup=options.warmup,
            average=options.average,
            dropout=options.dropout,
            noises=options.noises,
            crop=options.crop,
            freeze_encoder=options.freeze_encoder,
            accumulate=options.accumulate,
            remat=not options.no_remat,
            noising=Noising(log_sigma_mean=mean, log_sigma_std=std),
            autoencoding=Autoencoding(divergence=options.divergence, equivariance=options.equivariance),
        )

    def starting_tensors(self, network: str) -> dict[str, Array]:
        """The tensors of a network before the first step, float32 by dotted name, on the mesh."""
        return self.model.tensors(network, self.config, self.options.seed, sharding.shardings(self.setup.devices))

    def frozen_network(self, network: str) -> Any:
        """A network of the checkpoint, with its weights in the compute dtype, on the mesh."""
        assert self.model.path is not None  # `Stage.check_options`
        where = sharding.shardings(self.setup.devices)
        return checkpoint.load_network(self.model.path, self.config, network, self.setup.dtype, where)


class Stage(Step):
    """A stage of one run. A subclass defines its loss and examples; it may override batches, checks and export.

    Attributes:
        networks: the networks that it trains, keys of `svdjax.models.svd.NETWORKS`.
        own_options: the options that only this stage uses.
    """

    networks: ClassVar[tuple[str, ...]]
    own_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def trained_networks(cls, freeze_encoder: bool) -> tuple[str, ...]:
        """The trained networks, including a VAE with a frozen encoder."""
        return cls.networks

    @classmethod
    def frozen_networks(cls, freeze_encoder: bool) -> tuple[str, ...]:
        """The frozen networks that make the examples, in the order in which all hosts read them."""
        return ()

    @classmethod
    def check_options(cls, options: BaseOptions) -> None:
        """Refuse options that the stage can't use, before anything is read.

        Raises:
            InputError: a missing checkpoint, or options that contradict each other.
        """
        stage = options.stage
        if options.model is None and "vae" not in cls.networks:
            raise InputError(f"{stage} without --model: expected a checkpoint with a trained VAE, written by the stage vae")
        if options.model is not None and options.preset is not None and "unet" not in cls.networks:
            raise InputError(f"--model and --preset with {stage}: both set the starting weights, expected one of them")
        if options.cache_latents is not None and cls.trained_networks(options.freeze_encoder) != ("unet",):
            raise InputError("--cache-latents: expected it with unet and --freeze-encoder, with which both encoders are frozen")

    @classmethod
    def check_clips(cls, options: BaseOptions, config: SVDConfig, size: tuple[int, int]) -> None:
        """Raise `InputError` for options that don't fit clips of `size`, (width, height) in pixels."""

    @classmethod
    def state_shapes(cls, run: StageRun) -> State:
        """Shapes of the state before anything is loaded, without those of the few tensors outside the networks."""
        names = cls.trained_networks(run.settings.freeze_encoder)
        networks = {name: abstract(NETWORKS[name], getattr(run.config, name), jnp.float32) for name in names}
        trained = {f"{name}.{leaf}": x for name, network in networks.items() for leaf, x in leaves(network).items()}
        begin = functools.partial(states.begin, optimizer=optimizer(run.settings, run.setup.devices))
        return jax.eval_shape(begin, trained)

    def __init__(self, run: StageRun):
        self.run, self.config, self.settings = run, run.config, run.settings
        settings, setup = self.settings, run.setup
        trained = self.trained_networks(settings.freeze_encoder)
        start = {f"{name}.{leaf}": value for name in trained for leaf, value in run.starting_tensors(name).items()}
        self._networks = {
            name: abstract(NETWORKS[name], getattr(run.config, name), jnp.dtype(setup.dtype), jnp.float32) for name in trained
        }
        self._optimizer = optimizer(settings, setup.devices)
        encoders = {name: run.frozen_network(name) for name in self.frozen_networks(settings.freeze_encoder)}
        start |= self._extra_tensors()
        super().__init__(setup.devices, settings.batch_size, start, self._optimizer, encoders=encoders)
        self.begin(start)

    def _extra_tensors(self) -> dict[str, Array]:
        """Further trained tensors, outside the networks; they are not exported."""
        return {}

    def trained_with(self, tensors: Mapping[str, Array]) -> dict[str, Any]:
        """The trained networks with these tensors, such as those of a state or their EMA."""
        return {name: fill(network, tensors_of(tensors, name)) for name, network in self._networks.items()}

    @abstractmethod
    def loss_of(self, trained: Mapping[str, Array]) -> Callable[[Any], Array]:
        """The loss as a function of n examples: one number per example, (n,).

        Args:
            trained: the trained tensors by dotted name.
        """

    def sigma(self, examples: Any) -> Array:
        """The noise level of each example, (n,); zeros if there is none."""
        return jnp.zeros(self.batch_size)

    def losses(self, trained: Mapping[str, Array], examples: Any) -> Array:
        """The loss of each example, (n,). An example is a clip, or a clip with one of its noises."""
        devices = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        count = len(jax.tree.leaves(examples)[0])
        groups = math.gcd(count, devices)  # fewer groups if a part of a step has fewer clips than devices
        return accumulation.in_groups(self.loss_of(trained), examples, groups)

    def next_state(self, state: State, frozen: Any, examples: Any) -> tuple[State, Result]:
        accumulate = self.settings.accumulate
        loss, losses, gradients = accumulation.accumulate_gradients(self.losses, state.trained, examples, accumulate)
        losses, sigma = (x.reshape(self.batch_size, -1).mean(1) for x in (losses, self.sigma(examples)))
        return finish(state, gradients, self._optimizer, loss=loss, losses=losses, sigma=sigma)

    def batches(self, first_step: int) -> Batches:
        """The batches from a step on."""
        options, order = self.run.options, self.run.order
        return Loader(order, self.batch_size, self.rows, first_step, workers=options.workers)

    def generate(self, state: State, truth: np.ndarray) -> np.ndarray:
        """The validation clip for a held-out clip, both uint8 (f, H, W, 3)."""
        raise NotImplementedError(f"{type(self).__name__} has no validation clips")

    def export(self, state: State) -> tuple[SVDConfig, dict[str, dict[str, Any]]]:
        """The model of a state: its configuration, and the tensors of all networks on the host, float32.

        The weights of trained networks are their EMA. All processes must call it.
        """
        trained = self.whole(average_of(state))
        networks = {name: tensors_of(trained, name) or self.whole(self.run.starting_tensors(name)) for name in NETWORKS}
        return self.trained_config(state), networks

    def trained_config(self, state: State) -> SVDConfig:
        """The configuration of the exported model."""
        return self.config


def tensors_of(tensors: Mapping[str, Any], network: str) -> dict[str, Any]:
    """The tensors of one network, by their names within it."""
    prefix = f"{network}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
