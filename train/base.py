"""`python -m train.base`: train Stable Video Diffusion from scratch, on the embedded world or a folder of clips.

    python -m train.base vae --data world --out runs/vae
    python -m train.base image-encoder --model runs/vae/model --data world --out runs/image_encoder
    python -m train.base unet --model runs/image_encoder/model --freeze-encoder --data world --out runs/unet

`OUT/model` is a checkpoint as `convert.svd_to_flax` writes it, with the EMA of the trained weights.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import dataclasses
from typing import Any

from svdjax import loading
from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.data.clip_order import Order
from svdjax.data.sources import DataSettings, fingerprint
from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.parallel import cluster
from svdjax.parallel.main_process import leave, say
from svdjax.runtime import cli
from svdjax.sampling.settings import Settings
from train import process
from train.options import base
from train.options.base import BaseOptions
from train.run import session, validation
from train.run.session import Setup, Work
from train.steps.image_encoder_stage import ImageEncoderStage
from train.steps.stage import Stage, StageRun
from train.steps.starting_weights import StartingModel
from train.steps.state import State
from train.steps.unet_stage import UNetStage
from train.steps.vae_stage import VAEStage

STAGES: dict[str, type[Stage]] = {"vae": VAEStage, "image-encoder": ImageEncoderStage, "unet": UNetStage}


def train(options: BaseOptions) -> None:
    """Start a stage, or continue it."""
    stage = STAGES[options.stage]
    stage.check_options(options)
    process.start(options, options.model)
    path = None if options.model is None else loading.checkpoint_folder(options.model)
    model = StartingModel.read(path, options.preset)
    config = model.config()
    setup = session.set_up(options, config)
    if model.info is None or "unet" in stage.networks:
        config = fit_to_clips(config, setup.data)
    stage.check_clips(options, config, setup.data.size)

    def run(order: Order) -> StageRun:
        return StageRun(options=options, model=model, config=config, setup=setup, order=order)

    sources = {} if model.info is None else model.info.sources
    settings = process.same_settings(lambda: identity(options, model, setup))
    session.train(
        options,
        setup,
        settings,
        build=lambda order: build(run(order)),
        shapes=lambda order: stage.state_shapes(run(order)),
        sources=sources,
    )


def fit_to_clips(config: SVDConfig, data: DataSettings) -> SVDConfig:
    """The configuration with the number and the size of the clips' frames."""
    unet = dataclasses.replace(config.unet, num_frames=data.num_frames)
    if config.default_size != data.size:
        width, height = (side // config.vae.down_factor for side in data.size)
        unet = dataclasses.replace(unet, sample_size=(height, width))
    return dataclasses.replace(config, unet=unet)


def identity(options: BaseOptions, model: StartingModel, setup: Setup) -> dict[str, Any]:
    """The settings that determine the run's results."""
    if model.info is None:
        start = model.preset or "tiny"
    else:
        grown = "" if model.preset is None else f", grown to {model.preset}"
        start = fingerprint([model.info.sources, model.info.config.to_json()]) + grown
    return {
        "stage": options.stage,
        "model (--model, --preset)": start,
        **session.identity(options, setup),
        "--steps": options.steps,  # the learning rate depends on them
        "--warmup": options.warmup,
        "--average": options.average,
        "--dropout": options.dropout,
        "--log-sigma": list(options.log_sigma),
        "--noises": options.noises,
        "--crop": options.crop,
        "--divergence": options.divergence,
        "--equivariance": options.equivariance,
        "--freeze-encoder": options.freeze_encoder,
    }


def build(run: StageRun) -> Work:
    """Load or initialize the networks, and make the step."""
    options, data = run.options, run.setup.data
    stage = STAGES[options.stage](run)
    validate = None
    if options.validate_every:
        held_out = run.setup.sources.held_out[0]
        validate = validation.clip_writer(options.out / "validation", held_out, data, Settings().fps, stage.generate)
    return Work(stage, stage.batches, lambda state: export(stage, state), validate)


def export(stage: Stage, state: State) -> None:
    """Write `OUT/model`."""
    out = stage.run.options.out
    config, networks = stage.export(state)
    if cluster.is_main():
        checkpoint.save(out / "model", config, networks, overwrite=True)
    say(f"wrote {out / 'model'} after step {int(state.step)}; loss curve in {out / 'loss.png'}")


def command(argv: list[str] | None) -> None:
    options = base.parse(argv, {name: stage.own_options for name, stage in STAGES.items()})
    with out_of_memory_in_one_line(session.MEMORY_ADVICE):
        train(options)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
