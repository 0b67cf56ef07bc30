"""`python -m train.backward`: fine-tune the backward direction on a folder of clips, on one device or many hosts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from svdjax import pipeline
from svdjax.checkpoints import checkpoint, delta
from svdjax.data.clip_order import Order
from svdjax.data.sources import fingerprint
from svdjax.errors import InputError
from svdjax.losses import finetuning
from svdjax.models.backward import QUERIES, VALUES
from svdjax.models.initialize import abstract
from svdjax.models.svd import SVD, leaves
from svdjax.models.unet import UNet
from svdjax.parallel import cluster, sharding
from svdjax.parallel.main_process import leave, say
from svdjax.runtime import cli
from svdjax.sampling.settings import Settings
from train.batches.cached_batches import cached_batches
from train.options import backward
from train.options.backward import Options
from train.run import session, validation
from train.run.loop import Task
from train.run.session import Setup, Work
from train.steps.finetuning import Finetuning
from train.steps.settings import FinetuningSettings
from train.steps.state import State


def train(given: Options) -> None:
    """A whole run, or what is left of it."""
    session.begin(given, given.model)
    info = checkpoint.read_info(given.model)
    unet = leaves(abstract(UNet, info.config.unet, jnp.float32))
    if not finetuning.trained_names(unet):
        raise InputError(f"{given.model}: its UNet has no temporal self-attention, which is what is trained")
    setup = session.set_up(given, info.config, lambda: None if given.init is None else delta.check(given.init, unet))
    facts = {"sources": info.sources}
    session.carry_out(given, setup, identity(given, info, setup), lambda order: build(given, info, setup, order), facts)


def identity(given: Options, info: checkpoint.Info, setup: Setup) -> dict[str, Any]:
    """The settings that fix a run's numbers."""
    return {
        "model (--model)": fingerprint([info.sources, info.config.to_json(), info.dtype]),
        "start (--init)": None if given.init is None else fingerprint(delta.content(given.init)),
        **session.identity(given, setup),
        "--no-rotation": given.no_rotation,
    }


def build(given: Options, info: checkpoint.Info, setup: Setup, order: Order) -> Work:
    """Load the model and make the step."""
    where = sharding.shardings(setup.devices)
    model = checkpoint.load(given.model, dtype=setup.dtype, shardings=where)
    base, start = starting_tensors(given, where)
    how = FinetuningSettings(
        setup.batch,
        setup.data.num_frames,
        setup.data.size,
        given.seed,
        given.learning_rate,
        given.accumulate,
        not given.no_rotation,
        not given.no_remat,
    )
    step = Finetuning(model, setup.devices, how, start)
    task = Task(
        update=step.update,
        export=lambda state: export(given, info, step, base, state),
        validate=validation_of(given, setup, model, step) if given.validate_every else None,
    )
    if given.cache_latents is None:
        return Work(step, task)
    batches = functools.partial(cached_batches, given.cache_latents, info, step.encoders, setup, order, step.rows)
    return Work(step, task, batches)


def starting_tensors(given: Options, where: checkpoint.Shardings) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The base UNet's tensors that are trained or carried, and those to begin with, float32."""
    base = delta.base_tensors(given.model, VALUES + (QUERIES if given.no_rotation else ()), where)
    if given.init is None:
        return base, dict(base)
    begin = delta.restore(given.init, given.model / "unet", jnp.float32, where)
    if given.no_rotation is not any(name.endswith(QUERIES) for name in begin):
        kind = "with" if given.no_rotation else "without"
        raise InputError(f"--init {given.init}: expected weights trained {kind} --no-rotation, as this run's are")
    return base, begin


def validation_of(given: Options, setup: Setup, model: SVD, step: Finetuning) -> Callable[[State], None]:
    """A held-out clip between its ends."""
    settings = Settings(num_frames=setup.data.num_frames, steps=given.validate_steps, seed=given.seed)
    method = "no-rotation" if given.no_rotation else "dual"

    def make(state: State, truth: Any) -> Any:
        tensors = {**step.carried, **state.trained}
        cast = {name: value.astype(model.unet.dtype) for name, value in tensors.items()}
        with_backward = dataclasses.replace(model, backward=cast)
        latents = pipeline.sample_pair(with_backward, truth[:1], truth[-1:], settings, method=method)
        return pipeline.decode(with_backward, latents)[0]

    return validation.make(given.out / "validation", setup.found.held_out[0], setup.data, settings.fps, make)


def export(given: Options, info: checkpoint.Info, step: Finetuning, base: dict[str, jax.Array], state: State) -> None:
    """Write `OUT/backward`, which `sample.interpolate --backward` and `convert.flax_to_svd --backward` take."""
    values, base = (step.whole(tensors) for tensors in ({**step.carried, **state.trained}, base))
    if cluster.is_main():
        facts = {"steps": int(state.step), "sources": info.sources, "how": dataclasses.asdict(step.how)}
        delta.save_backward(given.out / "backward", values, base, facts, dtype=given.export_dtype, overwrite=True)
    say(f"wrote {given.out / 'backward'} after step {int(state.step)}; loss curve in {given.out / 'loss.png'}")


def command(argv: list[str] | None) -> None:
    given = backward.parse(argv)
    with session.one_line_for_memory():
        train(given)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
