"""The backward fine-tune as the loop runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jax import Array
from jax.sharding import Mesh

from svdjax.losses import finetuning
from svdjax.losses.finetuning import Examples, Moments
from svdjax.models.svd import SVD
from svdjax.models.unet import UNet
from svdjax.parallel import sharding
from train.run.loop import Result
from train.steps.settings import FinetuningSettings
from train.steps.state import State
from train.steps.step import Step, finish, run_blocks


def make_update(
    mesh: Mesh, how: FinetuningSettings
) -> Callable[[State, UNet, Mapping[str, Array], Examples], tuple[State, Result]]:
    """One step: (state, frozen UNet, carried tensors, examples) -> the next state and what the step tells; to be jitted."""
    optimizer = finetuning.optimizer(how.learning_rate)

    def update(state: State, unet: UNet, carried: Mapping[str, Array], examples: Examples) -> tuple[State, Result]:
        loss, losses, gradients = finetuning.loss_and_gradients(
            state.trained,
            unet,
            examples,
            accumulate=how.accumulate,
            carried=carried,
            rotation=how.rotation,
            **run_blocks(mesh, how.remat),
        )
        return finish(state, loss, losses, examples.sigma, gradients, optimizer)

    return update


class Finetuning(Step):
    """The step of one model on one mesh.

    Args:
        model: with weights placed by `svdjax.parallel.sharding`.
        mesh: its mesh.
        how: the step's settings.
        start: the backward direction's tensors to begin with, float32 by name; those that aren't trained are carried.
    """

    def __init__(self, model: SVD, mesh: Mesh, how: FinetuningSettings, start: Mapping[str, Array]):
        self.model, self.how = model, how
        names = finetuning.trained_names(start, how.rotation)
        trained = {name: start[name] for name in names}
        self.carried = {name: value for name, value in start.items() if name not in trained}
        self.encoders, self.frozen = (model.image_encoder, model.vae), (model.unet, self.carried)
        super().__init__(mesh, how.batch_size, trained, finetuning.optimizer(how.learning_rate))
        self._update = make_update(mesh, how)

    def _examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Examples:
        image_encoder, vae = sharding.gathered(encoders, self.mesh)
        how = self.how.noising
        draws = self._draws(self.model.config, step)
        if "clips" in arrays:
            return finetuning.encode_clips(image_encoder, vae, arrays["clips"], draws, how)
        moments = Moments(arrays["mean"], arrays["logvar"], arrays["image_embeds"])
        return finetuning.encode_ends(vae, arrays["keyframes"], moments, draws, how)
