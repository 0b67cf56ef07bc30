"""The training step of the backward fine-tune."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from svdjax.losses import finetuning
from svdjax.losses.finetuning import Examples, Moments
from svdjax.models.clip import CLIPVision
from svdjax.models.svd import SVD, fill, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE, encoding_part
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

    @contextlib.contextmanager
    def unet_in_host_memory(self) -> Iterator[UNet]:
        """The UNet as numpy arrays; within the block it is not on the devices, and no step can be done."""
        unet, carried = self.frozen
        values: dict[str, Any] = self.whole(leaves(unet))
        waiting = fill(unet, values)
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
