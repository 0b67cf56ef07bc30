"""`python -m train.base`: train Stable Video Diffusion from scratch, on the embedded world or a folder of clips.

    python -m train.base vae --data world --out runs/vae
    python -m train.base image-encoder --model runs/vae/model --data world --out runs/image_encoder
    python -m train.base unet --model runs/image_encoder/model --freeze-encoder --data world --out runs/unet

`OUT/model` is a checkpoint as `convert.svd_to_flax` writes it, with the mean of the trained weights.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax import pipeline
from svdjax.checkpoints import checkpoint
from svdjax.config import SVDConfig
from svdjax.data import world_clips
from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.sources import fingerprint
from svdjax.errors import InputError
from svdjax.losses.autoencoding import Autoencoding
from svdjax.losses.finetuning import Noising
from svdjax.models.svd import NETWORKS, SVD
from svdjax.models.vae import VAE
from svdjax.parallel import cluster, sharding
from svdjax.parallel.main_process import leave, say
from svdjax.runtime import cli
from svdjax.sampling.conditioning import to_levels, to_signed_unit
from svdjax.sampling.settings import Settings
from svdjax.world.facts import FACTS
from train.batches.cached_batches import cached_batches
from train.batches.clips_with_facts import read_with_facts
from train.batches.loader import Loader
from train.options import base
from train.options.base import ONLY, Options
from train.run import session, validation
from train.run.loop import Task
from train.run.session import Setup, Work
from train.steps import starting_weights
from train.steps.optimizer import average_of
from train.steps.pretraining import HEAD, Pretraining, of_network, trained_networks
from train.steps.settings import PretrainingSettings
from train.steps.state import State

_MEASURED = 64  # clips that the latents' scale is measured on


def train(given: Options) -> None:
    """A whole stage, or what is left of it."""
    session.begin(given, given.model)
    if given.stage != "vae" and given.model is None:
        raise InputError(
            f"{given.stage} without --model: expected a checkpoint whose VAE is trained, as the stage vae writes it"
        )
    if given.stage == "image-encoder" and not world_clips.is_meant(given.data):
        raise InputError(f"--data {given.data} with image-encoder: expected {world_clips.NAME}, whose facts are known")
    info = None if given.model is None else checkpoint.read_info(given.model)
    config = starting_weights.config_of(given, info)
    setup = session.set_up(given, config)
    if given.stage == "unet" or info is None:
        config = fitted(config, setup)
    check_stage(given, config, setup)
    begun = given.preset or "tiny" if info is None else fingerprint([info.sources, info.config.to_json()])
    if info is not None and given.preset is not None:
        begun = f"{begun}, grown to {given.preset}"
    settings = {
        "stage": given.stage,
        "model (--model, --preset)": begun,
        **session.identity(given, setup),
        "--steps": given.steps,  # the learning rate falls with them
        "--warmup": given.warmup,
        "--average": given.average,
        "--dropout": given.dropout,
        "--log-sigma": list(given.log_sigma),
        "--noises": given.noises,
        "--crop": given.crop,
        "--divergence": given.divergence,
        "--equivariance": given.equivariance,
        "--freeze-encoder": given.freeze_encoder,
    }
    sources = {} if info is None else info.sources
    session.carry_out(given, setup, settings, lambda order: build(given, config, info, setup, order), {"sources": sources})


def fitted(config: SVDConfig, setup: Setup) -> SVDConfig:
    """The configuration for clips of this length and size."""
    factor = config.vae.down_factor
    width, height = (side // factor for side in setup.data.size)
    unet = dataclasses.replace(config.unet, num_frames=setup.data.num_frames)
    if config.default_size != setup.data.size:
        unet = dataclasses.replace(unet, sample_size=(height, width))
    return dataclasses.replace(config, unet=unet)


def check_stage(given: Options, config: SVDConfig, setup: Setup) -> None:
    """Raises `InputError` for options of another stage, and for a crop that the VAE or the clips can't have."""
    for stage, defaults in ONLY.items():
        for option, default in defaults.items():
            if given.stage != stage and getattr(given, option) != default:
                name = option.replace("_", "-")
                raise InputError(f"--{name} with {given.stage}: expected it with {stage}, which alone has a use for it")
    if given.freeze_encoder and (given.stage == "image-encoder" or given.model is None):
        raise InputError("--freeze-encoder: expected it with vae or unet and --model, whose encoder is kept")
    if given.stage == "image-encoder" and given.validate_every:
        raise InputError("--validate-every with image-encoder, which makes no pictures: expected it with another stage")
    if given.crop is None:
        return
    if given.stage != "vae":
        raise InputError(
            f"--crop {given.crop} with {given.stage}: expected it with vae, which alone is trained on parts of frames"
        )
    factor, smallest = config.vae.down_factor, min(setup.data.size)
    if given.crop % factor or not 2 * factor <= given.crop <= smallest:
        raise InputError(f"--crop is {given.crop}, expected a multiple of {factor} from {2 * factor} to the clips' {smallest}")


def build(given: Options, config: SVDConfig, info: checkpoint.Info | None, setup: Setup, order: Order) -> Work:
    """Make or load what is trained, and the step."""
    how = PretrainingSettings(
        setup.batch,
        setup.data.num_frames,
        setup.data.size,
        given.steps,
        given.seed,
        given.learning_rate,
        given.warmup,
        given.average,
        given.dropout,
        given.noises,
        given.crop,
        given.freeze_encoder,
        given.accumulate,
        not given.no_remat,
        Noising(*given.log_sigma),
        Autoencoding(divergence=given.divergence, equivariance=given.equivariance),
    )
    where = sharding.shardings(setup.devices)
    begin = functools.partial(starting_weights.tensors_of, given, config, info, where)
    trained = trained_networks(given.stage, given.freeze_encoder)
    tensors = {f"{name}.{leaf}": value for name in trained for leaf, value in begin(name).items()}
    if given.stage == "image-encoder":
        shapes = ((config.image_encoder.projection_dim, len(FACTS)), (len(FACTS),))
        tensors |= {name: jnp.zeros(shape) for name, shape in zip(HEAD, shapes, strict=True)}
    # in one order on all hosts, which read together
    needed = [name for name in ("vae", "image_encoder") if given.stage == "unet" and name not in trained]
    frozen = {name: checkpoint.load_network(given.model, config, name, setup.dtype, where) for name in needed}
    step = Pretraining(given.stage, config, tensors, frozen, setup.devices, how, setup.dtype)
    task = Task(
        update=step.update,
        export=lambda state: export(given, setup, order, step, begin, state),
        validate=validation_of(given, setup, step) if given.validate_every else None,
    )
    if given.stage == "image-encoder":
        decode = read_with_facts
        load = functools.partial(Loader, order, setup.batch, step.rows, workers=given.workers, decode=decode)
        return Work(step, task, lambda first: load(first_step=first))
    if given.cache_latents is None:
        return Work(step, task)
    encoders = (step.encoders["image_encoder"], step.encoders["vae"])
    batches = functools.partial(cached_batches, given.cache_latents, info, encoders, setup, order, step.rows)
    return Work(step, task, batches)


def validation_of(given: Options, setup: Setup, step: Pretraining) -> Callable[[State], None]:
    """A held-out clip, encoded and decoded again, or made from its first frame."""
    settings = Settings(num_frames=setup.data.num_frames, steps=given.validate_steps, seed=given.seed)

    @jax.jit
    def again(vae: VAE, clip: Array) -> Array:
        mean, _ = vae.encode(to_signed_unit(clip))
        return to_levels(vae.decode(mean[None])[0])

    def reconstruct(state: State, truth: np.ndarray) -> np.ndarray:
        made = np.asarray(again(step.networks(average_of(state))["vae"], truth))
        squared = np.square(made.astype(float) - truth).mean()
        say(f"step {int(state.step)}: {10 * np.log10(255**2 / max(squared, 1e-9)):.1f} dB of the held-out clip")
        return made

    def animate(state: State, truth: np.ndarray) -> np.ndarray:
        model = SVD(step.config, **step.encoders, backward=None, **step.networks(average_of(state)))
        latents = pipeline.sample_image(model, truth[:1], settings)
        return pipeline.decode(model, latents)[0]

    make = reconstruct if given.stage == "vae" else animate
    return validation.make(given.out / "validation", setup.found.held_out[0], setup.data, settings.fps, make)


def export(
    given: Options,
    setup: Setup,
    order: Order,
    step: Pretraining,
    begin: Callable[[str], dict[str, Array]],
    state: State,
) -> None:
    """Write `OUT/model`: the trained networks' mean, the others as they were."""
    trained = step.whole(average_of(state))
    config = step.config
    if given.stage == "vae" and not given.freeze_encoder:
        scale = latents_scale(setup, order, step.networks(average_of(state))["vae"])
        config = dataclasses.replace(config, vae=dataclasses.replace(config.vae, scaling_factor=scale))
    networks: dict[str, Mapping[str, Any]] = {}
    for name in NETWORKS:
        networks[name] = of_network(trained, name) or step.whole(begin(name))
    out = given.out / "model"
    if cluster.is_main():
        checkpoint.save(out, config, networks, overwrite=True)
    say(f"wrote {out} after step {int(state.step)}; loss curve in {given.out / 'loss.png'}")


def latents_scale(setup: Setup, order: Order, vae: VAE) -> float:
    """What latents are multiplied by so that they have unit variance, as of the run's first clips."""

    @jax.jit
    def moments(vae: VAE, clip: Array) -> tuple[Array, Array]:
        mean, logvar = vae.encode(to_signed_unit(clip))
        return mean.mean(), (mean**2 + jnp.exp(logvar)).mean()

    data = setup.data
    clips = (order.clip(position) for position in range(_MEASURED))
    read = (read_clip(clip.source, clip.start, clip.num_frames, clip.stride, data.size, data.fit) for clip in clips)
    first, second = np.mean([jax.device_get(moments(vae, clip)) for clip in read], 0)
    return float((second - first**2) ** -0.5)


def command(argv: list[str] | None) -> None:
    given = base.parse(argv)
    with session.one_line_for_memory():
        train(given)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
