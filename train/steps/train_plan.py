"""The plan of a fine-tune: how to do it within the memory of a device, decided before a model is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from svdjax.config import SVDConfig
from svdjax.devices.budget import GIB
from svdjax.errors import InputError
from svdjax.memory.programs import Compile, Phase, Program, ProgramMemory, compile_here, peak_bytes, plan_lines
from svdjax.models.svd import abstract_model
from svdjax.sampling.clip_plan import ClipPlan, plan_clips
from svdjax.sampling.clip_work import ClipWork
from train.steps.finetuning import Finetuning, TrainWork
from train.steps.placing import device_bytes
from train.steps.settings import FinetuningSettings


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How a fine-tune is done.

    Attributes:
        accumulate: number of parts of a step.
        offload: whether the encoders are on the device only while they encode.
        validation: how validation clips are made, with the UNet in host memory while it isn't used; None without them.
        phases: filling the latent cache, if there is one, encode, step and, with validation, its phases, with their memory per
            device.
        transfer_bytes: bytes of weights that a step moves to each device.
        budget_bytes: what the run may use.
    """

    accumulate: int
    offload: bool
    validation: ClipPlan | None
    phases: tuple[Phase, ...]
    transfer_bytes: int
    budget_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The largest peak of the phases."""
        return peak_bytes(self.phases)

    def describe(self) -> list[str]:
        """Lines for the user: what is done, what it costs, the peak of each phase."""
        how = ["the encoders are kept in host memory while a step runs" if self.offload else "the encoders stay on the device"]
        if self.accumulate > 1:
            how.append(f"a step in {self.accumulate} parts")
        if self.transfer_bytes:
            how.append(f"{self.transfer_bytes / 1e9:.3g} GB to the device per step")
        return plan_lines(self.budget_bytes, how, self.phases)


def plan_training(
    work: TrainWork, budget: int, *, name: str = "--memory", compile: Compile | None = None
) -> tuple[TrainPlan, Finetuning]:
    """The cheapest plan that fits, according to the memory of the compiled programs, and its step, made from shapes.

    The order of cost: the encoders in host memory while a step runs, a step in more parts. The differentiated pass keeps only
    the inputs of its blocks anyway, unless `settings.remat` is off.

    Args:
        work: the fine-tune.
        budget: bytes of each device that the programs may use.
        name: the option, for messages.
        compile: compiles a program and returns its memory. Default: compile for the mesh; the step then runs these programs.

    Raises:
        InputError: nothing fits; the message has the numbers.
    """
    needed: list[int] = []
    memory: dict[str, ProgramMemory] = {}
    filling = work.cache_program() if work.cached else None
    if filling is not None:
        memory["cache"] = (compile or compile_here)(filling)
    update: ProgramMemory | None = None
    for accumulate in work.parts():
        step = work.step(accumulate, offload=False)
        encode, train = step.programs(work.arrays())
        resident = device_bytes((step.frozen, step.abstract_state))
        if update is not None and (least := resident + update.scratch_bytes // accumulate) > budget:
            needed.append(least)  # the scratch of a step is at most divided by its parts
            continue
        compile_program = compile or step.compile
        if "encode" not in memory or compile is None:
            memory["encode"] = compile_program(encode)
        memory["step"] = compile_program(train)
        update = update or memory["step"]
        for offload in (False, True):
            phases = _phases(step, encode, train, memory, offload)
            if filling is not None:
                phases = (_filling(step, filling, memory["cache"], offload), *phases)
            needed.append(peak_bytes(phases))
            if needed[-1] <= budget:
                step.offload = offload
                return _with_validation(work, step, phases, budget, name, compile), step
    settings = work.settings
    advice = "a smaller --size, fewer --num-frames, --mesh fsdp=-1"
    advice += "" if settings.remat else ", or no --no-remat"
    width, height = settings.size
    raise InputError(
        f"{name} is {budget / GIB:.4g} GiB: a step of {settings.batch_size} x {settings.num_frames} frames of {width}x{height} "
        f"needs at least {min(needed) / GIB:.1f} GiB in the smallest plan; try {advice}"
    )


def _phases(
    step: Finetuning, encode: Program, train: Program, memory: dict[str, ProgramMemory], offload: bool
) -> tuple[Phase, ...]:
    weights = device_bytes((step.frozen, step.abstract_state))
    encoders, batch, examples = (device_bytes(x) for x in (step.encoders, encode.args[1], train.args[2]))
    made, updated = memory["encode"], memory["step"]
    return (
        Phase(
            name="encode",
            resident_bytes=weights + encoders + batch,
            scratch_bytes=made.scratch_bytes + made.result_bytes,
            program="encode",
        ),
        Phase(
            name="step",
            resident_bytes=weights + examples + (0 if offload else encoders),
            scratch_bytes=updated.scratch_bytes + updated.result_bytes,
            program="train_step",
        ),
    )


def _filling(step: Finetuning, program: Program, memory: ProgramMemory, offload: bool) -> Phase:
    """The latent cache is filled after the UNet and the training state are on the device, before the first step."""
    weights, copies = device_bytes((step.frozen, step.abstract_state)), device_bytes(program.args)
    # on one device the encoders that a step uses are not copied
    encoders = 0 if offload or step.mesh.size == 1 else device_bytes(step.encoders)
    scratch = memory.scratch_bytes + memory.result_bytes
    return Phase(name="cache latents", resident_bytes=weights + encoders + copies, scratch_bytes=scratch, program=program.name)


def _with_validation(
    work: TrainWork, step: Finetuning, phases: tuple[Phase, ...], budget: int, name: str, compile: Compile | None
) -> TrainPlan:
    held = (step.frozen[1], step.abstract_state, () if step.offload else step.encoders)
    clips, state = None, device_bytes(held)
    if work.validation is not None:
        clip = ClipWork(
            model=abstract_model(work.config, work.dtype, work.kinds),
            size=work.settings.size,
            settings=work.validation,
            method="dual" if work.settings.rotation else "no-rotation",
        )
        options = {} if compile is None else {"compile": compile}
        # the training state stays on the device, and encoders that are not offloaded
        clips = plan_clips(clip, budget - state, name=f"{name} minus the training state", offload=(True,), **options)
        phases += tuple(
            dataclasses.replace(phase, name=f"validation: {phase.name}", resident_bytes=phase.resident_bytes + state)
            for phase in clips.phases
        )
    return TrainPlan(
        accumulate=step.settings.accumulate,
        offload=step.offload,
        validation=clips,
        phases=phases,
        transfer_bytes=device_bytes(step.encoders) if step.offload else 0,
        budget_bytes=budget,
    )


def make_plan(
    config: SVDConfig,
    settings: FinetuningSettings,
    dtype: Any,
    budget_bytes: int,
    mesh: Mesh,
    *,
    cached: bool = False,
    compile: Compile | None = None,
) -> TrainPlan:
    """The plan of a fine-tune without validation; see `plan_training`.

    For a GPU that isn't present, call it within `made_for(NVIDIA_GPU)`, with a mesh of its devices and its compiler.
    """
    work = TrainWork(config=config, settings=settings, dtype=dtype, mesh=mesh, cached=cached)
    return plan_training(work, budget_bytes, compile=compile)[0]
