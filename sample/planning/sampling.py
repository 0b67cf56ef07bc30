"""The programs of sampling a clip, compiled for a GPU: encode both keyframes, one step, decode."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sample.benchmarking import workloads
from sample.planning import compiling, methods
from sample.planning.options import TargetOptions
from sample.planning.plan import Plan, PlannedProgram, Planner, in_turn
from sample.planning.targets import card as card_of
from svdjax.config import SVDConfig
from svdjax.decoding import staged_decode
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.devices.budget import GIB, for_programs
from svdjax.devices.target import NVIDIA_GPU, made_for
from svdjax.devices.xla_options import UNET_OPTIONS, channels_last_options
from svdjax.memory.programs import Program
from svdjax.models.svd import abstract_model
from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh
from svdjax.runtime.memory_option import OPTION
from svdjax.sampling.clip_plan import plan_clips, plan_decoding
from svdjax.sampling.clip_work import ClipWork, encode_program, sample_programs
from svdjax.sampling.settings import Settings

DECODE = "staged_decode"  # several programs in turn, as in a run with a plan


def programs(config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any) -> list[Program]:
    """A step of both directions with guidance, and decoding in one program, as without a plan; see `workloads.make`."""
    shapes = workloads.make(config, size, num_frames, dtype, allocate=False)
    with made_for(NVIDIA_GPU):
        channels_last = {"compiler_options": channels_last_options()}
    step = {"keep_unused": True, "compiler_options": UNET_OPTIONS}
    return [
        Program(name="dual_step", fn=workloads.dual_step, args=shapes.dual_step, jit=step),
        # without the weights of the encoder, which decoding doesn't use
        Program(name="decode", fn=workloads.decode, args=shapes.decode, jit=channels_last),
    ]


def plan_for_card(
    config: SVDConfig,
    size: tuple[int, int],
    num_frames: int,
    dtype: Any,
    target: TargetOptions,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """Compile the programs of sampling a clip for a card.

    Args:
        config: shapes of the model.
        size: (width, height) of the clip in pixels.
        num_frames: frames of the clip.
        dtype: dtype of weights and computation.
        target: the card, and what to plan.
        defaults: the model's own defaults of `Settings`, for the methods of `target`.

    Raises:
        InputError: the extra is missing, or the clip doesn't fit in the memory of the options.
    """
    card = card_of(target.name)
    planner = Planner(card, compiling.devices_of(card), target.hlo)
    work = ClipWork(model=abstract_model(config, dtype), size=size, settings=Settings(num_frames=num_frames))
    clip, planned = None, []
    with made_for(NVIDIA_GPU):
        if target.memory is None:
            decode = plan_decoding(work, for_programs(card.usable_bytes), name=f"the memory of {card.title}", compile=planner)
        else:
            clip = plan_clips(work, for_programs(target.memory * GIB), name=OPTION, compile=planner)
            decode = clip.decode
            planned = [planner.plan(program) for program in sample_programs(work, clip.passes)[0]]
        encode, staged = planner.plan(encode_program(work)), _staged(work, decode, planner)
    if target.methods:
        clip_of = config, size, num_frames, dtype, defaults
        costs = [methods.cost(name, *clip_of, planner.plan, [encode, staged]) for name in target.methods]
        return Plan(card=card, programs=[encode, staged], costs=[dataclasses.asdict(cost) for cost in costs])
    step, at_once = (planner.plan(program) for program in programs(config, size, num_frames, dtype))
    whole = Plan(card=card, programs=[encode, step, *planned, at_once, staged])
    return whole if clip is None else dataclasses.replace(whole, phases=clip.phases, description=clip.describe())


def plan_on_mesh(
    config: SVDConfig, size: tuple[int, int], num_frames: int, dtype: Any, target: TargetOptions, sizes: Mapping[str, int]
) -> Plan:
    """Compile a step and decoding for several cards, with a clip for each part of a batch; see `plan_for_card`.

    Args:
        config, size, num_frames, dtype, target: see `plan_for_card`.
        sizes: size of each mesh axis.
    """
    card = card_of(target.name)
    devices = compiling.devices_of(card, math.prod(sizes.values()))
    mesh = make_mesh(sizes, devices, SAMPLING_AXES)
    planner = Planner(card, devices, target.hlo, mesh)
    shapes = workloads.make(config, size, num_frames, dtype, allocate=False, mesh=mesh)
    with made_for(NVIDIA_GPU):
        channels_last = {"compiler_options": channels_last_options()}
    step, decode = workloads.on_mesh(mesh)
    jit = {"keep_unused": True, "compiler_options": UNET_OPTIONS}
    planned = [
        planner.plan(Program(name="dual_step", fn=step, args=shapes.dual_step, jit=jit)),
        planner.plan(Program(name="decode", fn=decode, args=shapes.decode, jit=channels_last)),
    ]
    return Plan(card=card, programs=planned)


def _staged(work: ClipWork, plan: DecodePlan, planner: Planner) -> PlannedProgram:
    """Decoding as planned: all its programs together."""
    decoded = work.model.config.vae, (work.batch, *work.latent_shape), work.vae_dtype, plan
    parts = [(planner.plan(program), runs) for program, _, runs in staged_decode.programs(*decoded)]
    return in_turn(DECODE, parts, staged_decode.phase(*decoded, planner))
