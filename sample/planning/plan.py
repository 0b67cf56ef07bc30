"""Programs compiled for a GPU: memory, bytes moved, operations, and lower bounds of their time (floors)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from sample.benchmarking.results import TrainingSetup
from sample.planning import collectives, hbm
from sample.planning.collectives import Traffic
from sample.planning.compiling import announce, compile_for
from sample.planning.hbm import Kernels
from sample.planning.targets import Card
from svdjax.memory.programs import Phase, Program, ProgramMemory, memory_of, peak_bytes


@dataclass(frozen=True, kw_only=True)
class PlannedProgram:
    """A program compiled for a card.

    Attributes:
        name: such as `dual_step`.
        card: the card.
        devices: number of cards that it runs on.
        flops: floating-point operations of a run on all devices.
        memory: memory on each device.
        kernels: kernels on each device, by kind.
        traffic: bytes that each device sends to others; None on one device.
        compile_seconds: time of tracing and compiling.
    """

    name: str
    card: Card
    devices: int
    flops: int
    memory: ProgramMemory
    kernels: list[Kernels]
    traffic: list[Traffic] | None
    compile_seconds: float

    @property
    def total_bytes(self) -> int:
        """Scratch, arguments and results on each device."""
        return self.memory.scratch_bytes + self.memory.argument_bytes + self.memory.result_bytes

    @property
    def hbm_bytes(self) -> int:
        """Bytes moved through the memory of each device."""
        return hbm.total(self.kernels)

    @property
    def flops_seconds(self) -> float:
        """Lower bound of the time for its operations, at the card's rate for bfloat16."""
        return self.flops / self.devices / self.card.flops_per_second

    @property
    def hbm_seconds(self) -> float:
        """Lower bound of the time for the bytes that it moves, at the card's bandwidth."""
        return self.hbm_bytes / self.card.bandwidth

    @property
    def sent_bytes(self) -> float:
        """Bytes that each device sends to others."""
        return sum(row.bytes for row in self.traffic or ())

    @property
    def sent_seconds(self) -> float:
        """Lower bound of the time for the bytes that it sends, if all devices are in one host."""
        return self.sent_bytes / self.card.link

    def to_json(self) -> dict[str, Any]:
        """`NAME_scratch_bytes`, `NAME_hbm_bytes`, ..."""
        values = {
            "flops": self.flops,
            **dataclasses.asdict(self.memory),
            "total_bytes": self.total_bytes,
            "hbm_bytes": self.hbm_bytes,
            "flops_floor_seconds": self.flops_seconds,
            "hbm_floor_seconds": self.hbm_seconds,
            "kernels": [dataclasses.asdict(kernels) for kernels in self.kernels],
            "compile_seconds": self.compile_seconds,
        }
        if self.traffic is not None:
            values["traffic"] = [dataclasses.asdict(row) for row in self.traffic]
            values |= {"sent_bytes": self.sent_bytes, "sent_floor_seconds": self.sent_seconds}
        return {f"{self.name}_{key}": value for key, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs on a card.

    Attributes:
        card: the card.
        programs: the compiled programs.
        training: settings of a training step.
        phases: the phases of a whole run within a memory limit, if one is given; `phases_name` is `clip` or `train`.
        description: what the run does to stay within the limit.
        costs: values of `methods.MethodCost` of each method, if methods were asked for.
    """

    card: Card
    programs: Sequence[PlannedProgram]
    training: TrainingSetup | None = None
    phases: Sequence[Phase] = ()
    description: Sequence[str] = ()
    costs: Sequence[dict[str, Any]] = ()

    @property
    def phases_name(self) -> str:
        return "clip" if self.training is None else "train"

    def to_json(self) -> dict[str, Any]:
        """All values by key."""
        card = self.card
        values: dict[str, Any] = {
            "card": card.title,
            "card_memory_bytes": card.memory_bytes,
            "card_usable_bytes": card.usable_bytes,
            "card_flops_per_second": card.flops_per_second,
            "card_bandwidth": card.bandwidth,
        }
        for program in self.programs:
            values |= program.to_json()
        if self.training is not None:
            values |= dataclasses.asdict(self.training)
        if self.phases:
            values[f"{self.phases_name}_phases"] = [
                {
                    "name": phase.name,
                    "resident_bytes": phase.resident_bytes,
                    "scratch_bytes": phase.scratch_bytes,
                    "program": phase.program,
                }
                for phase in self.phases
            ]
            values[f"{self.phases_name}_peak_bytes"] = peak_bytes(self.phases)
            values[f"{self.phases_name}_plan"] = list(self.description)
        if self.costs:
            values["methods"] = list(self.costs)
        return values


class Planner:
    """Compiles programs for a card, each once; a `svdjax.memory.programs.Compile`.

    Args:
        card: the card.
        devices: from `compiling.devices_of`; programs for several have arguments with shardings.
        hlo: folder for the texts of the programs, `NAME.txt` and, if there are several of a name, `NAME_2.txt`; None: not kept.
        mesh: names the axes of collectives.
    """

    def __init__(self, card: Card, devices: Sequence[Any], hlo: Path | None = None, mesh: Mesh | None = None):
        self.card, self.devices, self.hlo, self.mesh = card, devices, hlo, mesh
        self._planned: dict[Any, PlannedProgram] = {}

    def __call__(self, program: Program) -> ProgramMemory:
        return self.plan(program).memory

    def plan(self, program: Program) -> PlannedProgram:
        """Compile a program, unless an equal one has been compiled."""
        if program.key not in self._planned:
            announce(program, self.card)
            self._planned[program.key] = self._plan(program)
        return self._planned[program.key]

    @property
    def programs(self) -> list[PlannedProgram]:
        """The compiled programs; of several with a name only the last."""
        return list({planned.name: planned for planned in self._planned.values()}.values())

    def _plan(self, program: Program) -> PlannedProgram:
        compiled = compile_for(self.devices[0], program)
        text = compiled.program.as_text()
        if self.hlo is not None:
            self.hlo.mkdir(exist_ok=True)
            same = sum(planned.name == program.name for planned in self._planned.values())
            (self.hlo / f"{program.name}{f'_{same + 1}' if same else ''}.txt").write_text(text)
        return PlannedProgram(
            name=program.name,
            card=self.card,
            devices=len(self.devices),
            flops=compiled.flops,
            memory=memory_of(compiled.program),
            kernels=hbm.moved(text),
            traffic=collectives.traffic(text, self.mesh) if len(self.devices) > 1 else None,
            compile_seconds=compiled.seconds,
        )


def in_turn(name: str, parts: Sequence[tuple[PlannedProgram, int]], phase: Phase) -> PlannedProgram:
    """Programs that run one after the other, as one.

    Args:
        name: of all together.
        parts: the programs, each with its number of runs.
        phase: their memory; what is resident counts as arguments.
    """
    kernels: dict[str, Kernels] = {}
    for part, runs in parts:
        for kind in part.kernels:
            before = kernels.get(kind.kind, Kernels(kind.kind, 0, 0))
            kernels[kind.kind] = Kernels(kind.kind, before.count + runs * kind.count, before.bytes + runs * kind.bytes)
    return PlannedProgram(
        name=name,
        card=parts[0][0].card,
        devices=1,
        flops=sum(runs * part.flops for part, runs in parts),
        memory=ProgramMemory(phase.scratch_bytes, phase.resident_bytes, 0),
        kernels=sorted(kernels.values(), key=lambda kind: -kind.bytes),
        traffic=None,
        compile_seconds=sum(part.compile_seconds for part, _ in parts),
    )
