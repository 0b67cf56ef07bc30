"""The programs of sampling a clip, compiled for a GPU: encode both keyframes, one step, decode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sample.benchmarking import workloads
from sample.planning import compiling
from sample.planning.options import TargetOptions
from sample.planning.plan import Plan, plan_program
from sample.planning.targets import card as card_of
from svdjax.config import SVDConfig
from svdjax.devices.budget import GIB
from svdjax.devices.target import NVIDIA_GPU, made_for
from svdjax.devices.xla_options import UNET_OPTIONS, channels_last_options
from svdjax.memory.programs import Program
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import abstract
from svdjax.sampling.clip_plan import make_plan
from svdjax.sampling.conditioning import encode_keyframes


def programs(config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any) -> list[Program]:
    """Encoding, a step of both directions with guidance, and decoding, as for one clip; see `workloads.make`."""
    shapes = workloads.make(config, size, num_frames, dtype, allocate=False)
    vae, _ = shapes.decode
    image_encoder = abstract(CLIPVision, config.image_encoder, jnp.dtype(dtype))
    width, height = size
    keyframes = jax.ShapeDtypeStruct((2, 1, height, width, 3), jnp.uint8)
    noise = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    strength = jax.ShapeDtypeStruct((), jnp.float32)
    with made_for(NVIDIA_GPU):
        channels_last = {"compiler_options": channels_last_options()}
    step = {"keep_unused": True, "compiler_options": UNET_OPTIONS}
    return [
        # without the weights of the decoder, which encoding doesn't use; and the reverse
        Program(name="encode", fn=encode_keyframes, args=(image_encoder, vae, keyframes, noise, strength)),
        Program(name="dual_step", fn=workloads.dual_step, args=shapes.dual_step, jit=step),
        Program(name="decode", fn=workloads.decode, args=shapes.decode, jit=channels_last),
    ]


def plan_for_card(config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any, target: TargetOptions) -> Plan:
    """Compile the programs of sampling a clip for a card.

    Raises:
        InputError: the extra is missing, or the clip doesn't fit in the memory of the options.
    """
    card = card_of(target.name)
    devices = compiling.devices_of(card)
    clip = None
    if target.memory is not None:
        with made_for(NVIDIA_GPU):
            budget = int(target.memory * GIB)
            clip = make_plan(config, size, num_frames, dtype, budget, compile=compiling.compiler_for(card))
    planned = []
    for program in programs(config, size, num_frames, dtype):
        compiling.announce(program, card)
        planned.append(plan_program(program, card, devices, target.hlo))
    if clip is None:
        return Plan(card=card, programs=planned)
    return Plan(card=card, programs=planned, phases=clip.phases, description=clip.describe())
