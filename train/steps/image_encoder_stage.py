"""The image encoder's stage: predict known facts about frames of the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from svdjax.data import world_clips
from svdjax.errors import InputError
from svdjax.losses.facts import fact_losses
from svdjax.parallel import sharding
from svdjax.world.facts import FACTS
from train.batches.clips_with_facts import read_with_facts
from train.batches.loader import Loader
from train.options.base import BaseOptions
from train.run.session import Batches
from train.steps.stage import Stage

_KERNEL, _BIAS = "head.kernel", "head.bias"  # the linear head that predicts the facts; it is not exported

Examples = tuple[Array, Array]  # clips and facts: arguments of `fact_losses`


class ImageEncoderStage(Stage):
    """Train the image encoder, with a linear head on its embedding."""

    networks = ("image_encoder",)

    @classmethod
    def check_options(cls, options: BaseOptions) -> None:
        super().check_options(options)
        if not world_clips.is_world(options.data):
            raise InputError(
                f"--data {options.data} with image-encoder: expected {world_clips.NAME}, the only data with known facts"
            )
        if options.freeze_encoder:
            raise InputError("--freeze-encoder with image-encoder: expected it with vae or unet and --model")
        if options.validate_every:
            raise InputError("--validate-every with image-encoder, which generates no clips: expected it with another stage")

    def _extra_tensors(self) -> dict[str, Array]:
        shape = (self.config.image_encoder.projection_dim, len(FACTS))
        return {_KERNEL: jnp.zeros(shape), _BIAS: jnp.zeros(shape[1:])}

    def make_examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Examples:
        return arrays["clips"], arrays["facts"]

    def loss_of(self, trained: Mapping[str, Array]) -> Callable[[Examples], Array]:
        image_encoder = sharding.gathered(self.trained_with(trained)["image_encoder"], self.mesh)
        return lambda examples: fact_losses(image_encoder, trained[_KERNEL], trained[_BIAS], *examples)

    def batches(self, first_step: int) -> Batches:
        """Clips with the facts of their frames."""
        options, order = self.run.options, self.run.order
        return Loader(order, self.batch_size, self.rows, first_step, workers=options.workers, decode=read_with_facts)
