"""`python -m train.backward`: fine-tune the backward direction on a folder of clips, on one device or many hosts."""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax import loading
from svdjax.checkpoints import checkpoint, delta
from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.data.clip_order import Order
from svdjax.data.sources import fingerprint
from svdjax.devices import budget
from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.errors import InputError
from svdjax.models.backward import QUERIES, VALUES
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.models.svd import SVD, leaves
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE
from svdjax.parallel import cluster, sharding
from svdjax.parallel.main_process import leave, on_main, say
from svdjax.runtime import cli, memory_option
from svdjax.sampling import generation
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.settings import Settings
from train import process
from train.batches.cached_batches import cached_batches
from train.batches.loader import Loader
from train.options import backward
from train.options.backward import BackwardOptions
from train.run import session, validation
from train.run.session import Setup, Work
from train.steps.encoders import where_for
from train.steps.finetuning import Finetuning, TrainWork
from train.steps.settings import FinetuningSettings
from train.steps.state import State
from train.steps.train_plan import plan_training


def train(options: BackwardOptions) -> None:
    """Start a fine-tune, or continue it."""
    process.start(options, options.model, options.memory)
    options = dataclasses.replace(options, model=loading.checkpoint_folder(options.model))
    info = checkpoint.read_info(options.model)
    unet = leaves(abstract(UNet, info.config.unet, jnp.float32))
    if options.init is not None:
        delta.check_backward_folder(options.init, unet)
        check_rotation(options.init, options.no_rotation)
    setup = session.set_up(options, info.config)
    settings = process.same_settings(lambda: identity(options, info, setup))
    work = work_of(options, info, setup)

    def shapes(order: Order) -> State:
        return work.step(options.accumulate, offload=False).abstract_state

    make = functools.partial(build, options, info, setup, work)
    session.train(options, setup, settings, build=make, shapes=shapes, sources=info.sources)


def check_rotation(init: Path, no_rotation: bool) -> None:
    """Raise `InputError` if `--init` was trained with the other setting of `--no-rotation`."""
    if no_rotation is not any(name.endswith(QUERIES) for name in delta.stored_shapes(init)):
        kind = "with" if no_rotation else "without"
        raise InputError(f"--init {init}: expected weights trained {kind} --no-rotation, as in this run")


def identity(options: BackwardOptions, info: checkpoint.Info, setup: Setup) -> dict[str, Any]:
    """The settings that determine the run's results."""
    return {
        "model (--model)": fingerprint([info.sources, info.config.to_json(), info.dtype]),
        "start (--init)": None if options.init is None else fingerprint(delta.content(options.init)),
        **session.identity(options, setup),
        "--no-rotation": options.no_rotation,
    }


def build(options: BackwardOptions, info: checkpoint.Info, setup: Setup, work: TrainWork, order: Order) -> Work:
    """Plan the step if there is a limit on memory, load the model, and make the step."""
    limit = on_main(lambda: budget.budget_bytes(options.memory, memory_option.OPTION))
    plan, step = None, None
    if limit is not None:
        say(f"compiling the step, to plan it within {limit / budget.GIB:.1f} GiB")
        plan, step = plan_training(work, limit)
        for line in plan.describe():
            say(line)
    step = step or work.step(options.accumulate, offload=False)
    where = where_for(setup.devices, cached=work.cached, offload=step.offload)
    model = checkpoint.load(options.model, dtype=setup.dtype, shardings=where)
    base, start = starting_tensors(options, sharding.shardings(setup.devices))
    step.load(model, start)
    base = step.whole(base)
    networks = (model.image_encoder, model.vae)
    if options.cache_latents is None:
        batches = functools.partial(Loader, order, setup.batch_size, step.rows, workers=options.workers)
    else:
        batches = functools.partial(cached_batches, options.cache_latents, info, networks, setup, order, step.rows)
    validate = None
    if options.validate_every:
        generate = functools.partial(generate_between, options, step, networks, None if plan is None else plan.validation)
        held_out = setup.sources.held_out[0]
        validate = validation.clip_writer(options.out / "validation", held_out, setup.data, Settings().fps, generate)
    return Work(step, batches, functools.partial(export, options, info, step, base), validate)


def work_of(options: BackwardOptions, info: checkpoint.Info, setup: Setup) -> TrainWork:
    """The fine-tune, without its data."""
    settings = FinetuningSettings(
        batch_size=setup.batch_size,
        num_frames=setup.data.num_frames,
        size=setup.data.size,
        seed=options.seed,
        learning_rate=options.learning_rate,
        accumulate=options.accumulate,
        rotation=not options.no_rotation,
        remat=not options.no_remat,
    )
    return TrainWork(
        config=info.config,
        settings=settings,
        dtype=setup.dtype,
        mesh=setup.devices,
        cached=options.cache_latents is not None,
        validation=validation_settings(options, setup.data.num_frames) if options.validate_every else None,
    )


def validation_settings(options: BackwardOptions, num_frames: int) -> Settings:
    """Settings of the sampler for validation clips."""
    return Settings(num_frames=num_frames, steps=options.validate_steps, seed=options.seed)


def starting_tensors(options: BackwardOptions, where: Shardings) -> tuple[dict[str, Array], dict[str, Array]]:
    """The backward tensors' values in the base UNet, and before the first step; both float32 by name."""
    base = delta.base_tensors(options.model, VALUES + (QUERIES if options.no_rotation else ()), where)
    if options.init is None:
        return base, dict(base)
    return base, delta.restore(options.init, options.model / "unet", jnp.float32, where)


def generate_between(
    options: BackwardOptions,
    step: Finetuning,
    encoders: tuple[CLIPVision, VAE],
    plan: ClipPlan | None,
    state: State,
    truth: np.ndarray,
) -> np.ndarray:
    """A validation clip, generated between the first and last frame of a held-out clip; both uint8 (f, H, W, 3).

    Args:
        options: the command line.
        step: the step, with the UNet.
        encoders: image encoder and VAE, with its decoder.
        plan: how to generate it; the networks are then kept in host memory.
        state: with the trained tensors.
        truth: the held-out clip.
    """
    if plan is not None and jax.process_count() > 1:  # each process makes the clip on its own device
        encoders = step.in_host_memory(encoders[0]), step.in_host_memory(encoders[1])
    image_encoder, vae = encoders
    settings = validation_settings(options, len(truth))
    method = "no-rotation" if options.no_rotation else "dual"
    tensors = step.tensors(state) if plan is None else step.whole(step.tensors(state))
    with contextlib.nullcontext(step.unet) if plan is None else step.unet_in_host_memory() as unet:
        cast: dict[str, Any] = {name: value.astype(unet.dtype) for name, value in tensors.items()}
        model = SVD(config=step.config, unet=unet, vae=vae, image_encoder=image_encoder, backward=cast)
        latents = generation.sample_pair(model, truth[:1], truth[-1:], settings, method=method, plan=plan)
        return generation.decode(model, latents, plan=None if plan is None else plan.decode)[0]


def export(
    options: BackwardOptions, info: checkpoint.Info, step: Finetuning, base: dict[str, np.ndarray], state: State
) -> None:
    """Write `OUT/backward`, which `sample.interpolate --backward` and `convert.flax_to_svd --backward` read."""
    values = step.whole(step.tensors(state))
    out: Path = options.out / "backward"
    if cluster.is_main():
        facts = {"steps": int(state.step), "sources": info.sources, "how": dataclasses.asdict(step.settings)}
        delta.save_backward(out, values, base, facts, dtype=options.export_dtype, overwrite=True)
    say(f"wrote {out} after step {int(state.step)}; loss curve in {options.out / 'loss.png'}")


def command(argv: list[str] | None) -> None:
    options = backward.parse(argv)
    with out_of_memory_in_one_line(session.MEMORY_ADVICE):
        train(options)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
