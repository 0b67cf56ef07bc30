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

from svdjax import checkpoint, cli, pipeline, sharding
from svdjax.autoencoding import Autoencoding
from svdjax.conditioning import to_levels, to_signed_unit
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.model import NETWORKS, SVD
from svdjax.settings import Settings
from svdjax.vae import VAE
from svdjax.world_facts import FACTS
from train import base_options, course, hosts, start, validation, world_clips
from train.base_options import ONLY, Options
from train.cached_batches import cached_batches
from train.course import Setup, Work
from train.finetuning import Noising
from train.loader import Loader
from train.loop import Task
from train.optimizer import average_of
from train.order import Order
from train.pretraining import HEAD, How, Pretraining, of_network, trained_networks
from train.sources import fingerprint, read_clip
from train.state import State
from train.together import leave, say

_MEASURED = 64  # clips that the latents' scale is measured on


def train(given: Options) -> None:
    """A whole stage, or what is left of it."""
    course.begin(given, given.model)
    if given.stage != "vae" and given.model is None:
        raise InputError(
            f"{given.stage} without --model: expected a checkpoint whose VAE is trained, as the stage vae writes it"
        )
    if given.stage == "image-encoder" and not world_clips.is_meant(given.data):
        raise InputError(f"--data {given.data} with image-encoder: expected {world_clips.NAME}, whose facts are known")
    info = None if given.model is None else checkpoint.read_info(given.model)
    config = start.config_of(given, info)
    setup = course.set_up(given, config)
    if given.stage == "unet" or info is None:
        config = fitted(config, setup)
    check_stage(given, config, setup)
    begun = given.preset or "tiny" if info is None else fingerprint([info.sources, info.config.to_json()])
    if info is not None and given.preset is not None:
        begun = f"{begun}, grown to {given.preset}"
    settings = {
        "stage": given.stage,
        "model (--model, --preset)": begun,
        **course.identity(given, setup),
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
    course.carry_out(given, setup, settings, lambda order: build(given, config, info, setup, order), {"sources": sources})


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
    how = How(
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
    begin = functools.partial(start.tensors_of, given, config, info, where)
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
        decode = world_clips.read_with_facts
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
    if hosts.is_main():
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
    given = base_options.parse(argv)
    with course.one_line_for_memory():
        train(given)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    leave(main())
