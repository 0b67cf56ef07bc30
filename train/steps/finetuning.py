"""The training step of the backward fine-tune."""

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
from train.run.result import Result
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
        model: the model, with weights placed by `svdjax.parallel.sharding`.
        mesh: its mesh.
        settings: the step's settings.
        start: the backward tensors before the first step, float32 by name; those that aren't trained are carried along
            unchanged.
    """

    def __init__(self, model: SVD, mesh: Mesh, settings: FinetuningSettings, start: Mapping[str, Array]):
        self.model, self.settings = model, settings
        names = finetuning.trained_names(start, settings.rotation)
        trained = {name: start[name] for name in names}
        self.carried = {name: value for name, value in start.items() if name not in trained}
        self._update = make_update(mesh, settings)
        super().__init__(
            mesh,
            settings.batch_size,
            trained,
            finetuning.optimizer(settings.learning_rate),
            encoders=(model.image_encoder, model.vae),
            frozen=(model.unet, self.carried),
        )

    def make_examples(self, encoders: Any, arrays: dict[str, Array], step: Array) -> Examples:
        image_encoder, vae = sharding.gathered(encoders, self.mesh)
        noising = self.settings.noising
        draws = self._draws(self.settings, self.model.config, step)
        if "clips" in arrays:
            return finetuning.encode_clips(image_encoder, vae, arrays["clips"], draws, noising)
        moments = Moments(arrays["mean"], arrays["logvar"], arrays["image_embeds"])
        return finetuning.encode_ends(vae, arrays["keyframes"], moments, draws, noising)

    def next_state(self, state: State, frozen: Any, examples: Examples) -> tuple[State, Result]:
        unet, carried = frozen
        return self._update(state, unet, carried, examples)
