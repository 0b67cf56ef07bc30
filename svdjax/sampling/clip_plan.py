"""The plan of a clip: how to make it within the memory of a device, decided before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from svdjax.config import SVDConfig
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.devices.budget import GIB, budget_bytes, memory_in_gib
from svdjax.errors import InputError
from svdjax.memory.programs import Compile, Phase, compile_here, peak_bytes, plan_lines
from svdjax.models.svd import abstract_model
from svdjax.sampling.clip_programs import Phases
from svdjax.sampling.clip_work import ClipWork
from svdjax.sampling.passes import PASSES, passes_of
from svdjax.sampling.settings import Settings

Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """How a batch of clips is made.

    Attributes:
        passes: a key of `passes.PASSES`: UNet calls of an evaluation.
        offload: whether networks are kept in host memory while they aren't used.
        decode: how the latents are decoded.
        phases: encode, sample, decode, with their memory.
        transfer_bytes: bytes that a batch moves between host and device.
        budget_bytes: what the run may use.
    """

    passes: str
    offload: bool
    decode: DecodePlan
    phases: tuple[Phase, ...]
    transfer_bytes: int
    budget_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The largest peak of the phases."""
        return peak_bytes(self.phases)

    def describe(self) -> list[str]:
        """Lines for the user: what is done, what it costs, the peak of each phase."""
        how = [PASSES[self.passes]]
        if self.offload:
            how.append("networks are kept in host memory while they aren't used")
        if self.decode.in_passes:
            how.append("decoding in parts, with activations in host memory")
        if self.transfer_bytes:
            how.append(f"{self.transfer_bytes / 1e9:.3g} GB between host and device per clip or batch")
        return plan_lines(self.budget_bytes, how, self.phases)

    def as_text(self) -> dict[str, str]:
        """The plan for the metadata of a file."""
        return {"plan": self.passes + (", offload" if self.offload else "") + (", decode in parts" * self.decode.in_passes)}


def make_plan(
    config: SVDConfig,
    size: tuple[int, int],
    num_frames: int,
    dtype: Any,
    budget_bytes: int,
    *,
    batch: int = 1,
    directions: int = 2,
    guidance: bool = True,
    compile: Compile = compile_here,
) -> ClipPlan:
    """The plan of clips with default settings; see `plan_clips`.

    Args:
        config: shapes of the model.
        size: (width, height) in pixels.
        num_frames: frames of a clip.
        dtype: dtype of computation and parameters.
        budget_bytes: memory of the device that the programs may use.
        batch: number of clips sampled together.
        directions: 2, or 1 for image-to-video.
        guidance: whether there are predictions without conditioning.
        compile: compiles a program and returns its memory.
    """
    settings = Settings(num_frames=num_frames) if guidance else Settings(num_frames=num_frames, guidance=(1, 1))
    method = "dual" if directions == 2 else "forward"
    work = ClipWork(model=abstract_model(config, dtype), size=size, settings=settings, method=method, batch=batch)
    return plan_clips(work, budget_bytes, compile=compile)


def plan_for(work: ClipWork, memory: float | None) -> ClipPlan | None:
    """The plan for a loaded model on JAX's default device; without `memory`, None on a CPU or for a model on other devices.

    Args:
        work: the batch of clips.
        memory: GiB that the run may use; None for what the device has.

    Raises:
        InputError: not a number of GiB above 0, more than the device has, or less than the smallest plan needs.
    """
    memory = None if memory is None else memory_in_gib(memory)
    tensors = jax.tree.leaves(work.model.unet)
    devices = set().union(*(x.devices() for x in tensors if isinstance(x, jax.Array)))
    here = jnp.zeros(()).devices()
    elsewhere = bool(devices) and devices != here
    if elsewhere and memory is not None:
        raise InputError(f"memory is {memory:g}, but the model is not on {next(iter(here))} alone: a plan is for this device")
    budget = None if elsewhere else budget_bytes(memory)
    return None if budget is None else plan_clips(work, budget, offload=(not isinstance(tensors[0], jax.Array),))


def plan_clips(
    work: ClipWork,
    budget: int,
    *,
    name: str = "memory",
    offload: tuple[bool, ...] = (False, True),
    compile: Compile = compile_here,
) -> ClipPlan:
    """The cheapest plan that fits, according to the memory of the compiled programs.

    More UNet calls, and decoding in parts, cost more than networks in host memory, which cost more than smaller blocks.

    Args:
        work: the batch of clips.
        budget: bytes of the device that the programs may use.
        name: the option, for messages.
        offload: the values of `ClipPlan.offload` to try, False first.
        compile: compiles a program and returns its memory; each is compiled once.

    Raises:
        InputError: nothing fits; the message has the numbers.
    """
    phases_of = Phases(work, compile)
    least = offload[-1]
    refuse = _refusal(work, budget, name)
    encode = _first([True], phases_of.encode, least, budget, refuse)
    passes = _first(passes_of(work.together, work.guided), phases_of.sample, least, budget, refuse, phases_of.least_sample)
    decode = _first(phases_of.decode_plans(), phases_of.decode, least, budget, refuse, phases_of.least_decode)
    assert encode
    if False in offload:  # without transfers, if that needs no more UNet calls or parts
        alike = [plan for plan in phases_of.decode_plans() if plan == decode or not (plan.in_passes or decode.in_passes)]
        hopeful = (plan for plan in alike if phases_of.least_decode(plan, False) <= budget)
        fitting = (plan for plan in hopeful if phases_of.decode(plan, False).needed_bytes <= budget)
        others = phases_of.encode(True, False), phases_of.sample(passes, False)
        if max(phase.needed_bytes for phase in others) <= budget and (resident := next(fitting, None)) is not None:
            least, decode = False, resident
    phases = phases_of.encode(True, least), phases_of.sample(passes, least), phases_of.decode(decode, least)
    moved = phases_of.transfer_bytes(decode, least)
    return ClipPlan(passes=passes, offload=least, decode=decode, phases=phases, transfer_bytes=moved, budget_bytes=budget)


def plan_decoding(work: ClipWork, budget: int, *, name: str = "memory", compile: Compile = compile_here) -> DecodePlan:
    """The cheapest way to decode within `budget` bytes, with no other network on the device; see `plan_clips`."""
    phases_of = Phases(work, compile)
    return _first(
        phases_of.decode_plans(), phases_of.decode, True, budget, _refusal(work, budget, name), phases_of.least_decode
    )


def _refusal(work: ClipWork, budget: int, name: str) -> str:
    width, height = work.size
    return f"{name} is {budget / GIB:.4g} GiB: {work.settings.num_frames} frames of {width}x{height} need"


def _first(
    choices: Iterable[Choice],
    phase: Callable[[Choice, bool], Phase],
    offload: bool,
    budget: int,
    refuse: str,
    least: Callable[[Choice, bool], int] = lambda choice, offload: 0,
) -> Choice:
    """The first choice that fits in the budget."""
    needed: list[tuple[int, str]] = []
    for choice in choices:
        estimate = least(choice, offload)
        if estimate > budget:
            needed.append((estimate, "sampling or decoding"))
            continue
        made = phase(choice, offload)
        if made.needed_bytes <= budget:
            return choice
        needed.append((made.needed_bytes, made.name))
    smallest, where = min(needed)
    advice = "a smaller size, fewer frames or bfloat16" + ("" if offload else ", or a model that is loaded with offload")
    raise InputError(f"{refuse} at least {smallest / GIB:.3g} GiB for {where} in the smallest plan; try {advice}")
