"""Bytes that devices send each other in one run of a compiled program, read from its HLO.

Ring algorithms are assumed, which send the least. In a group of n devices each sends, for b bytes that it puts in:

    all-gather          (n - 1) b           its own part, and n - 2 others' passed on
    reduce-scatter      (n - 1)/n b
    all-reduce          2 (n - 1)/n b       a reduce-scatter and an all-gather
    all-to-all          (n - 1)/n b
    collective-permute  b
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from sample.benchmarking.hlo import Computation, Instruction, parse

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_NOT_COUNTED = ("collective-broadcast", "ragged-all-to-all", "send", "recv")

Totals = dict[tuple[str, str], tuple[int, float]]  # by kind and axes: how many, bytes


@dataclass(frozen=True)
class Traffic:
    """What one kind of collective over some mesh axes sends in a run.

    Attributes:
        kind: `all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all` or `collective-permute`.
        axes: the mesh axes along which the devices that communicate differ, joined by `+`; `?` without a mesh.
        count: how many run, loops multiplied out.
        bytes: what each device sends.
    """

    kind: str
    axes: str
    count: int
    bytes: float


def traffic(compiled: Any, mesh: Mesh | AbstractMesh | None = None) -> list[Traffic]:
    """The collectives of a program, the dearest first.

    Bodies of loops count as often as they run, and of the branches of a condition the dearest counts. Asynchronous
    collectives count where they start.

    Args:
        compiled: of `jax.jit(fn).lower(...).compile()`, or the text of its HLO.
        mesh: the mesh it was compiled for, whose axes are then named.

    Raises:
        ValueError: a collective within a loop whose length the program doesn't tell, or one of a kind that is not counted.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    computations, entry = parse(text)
    partitions = re.search(r"\bnum_partitions=(\d+)", text)
    counter = _Counter(computations, int(partitions[1]) if partitions else 1, {} if mesh is None else dict(mesh.shape))
    found = [Traffic(*key, *values) for key, values in counter.total(entry).items()]
    return sorted(found, key=lambda t: (-t.bytes, t.kind, t.axes))


def table(rows: Sequence[Traffic]) -> str:
    """`traffic` as lines of text, with a sum."""
    lines = [f"{'collective':<20}{'axes':<14}{'count':>7}{'MB sent by each device':>24}"]
    lines += [f"{t.kind:<20}{t.axes:<14}{t.count:>7}{t.bytes / 1e6:>24.3f}" for t in rows]
    return "\n".join([*lines, f"{'all':<34}{sum(t.count for t in rows):>7}{sum(t.bytes for t in rows) / 1e6:>24.3f}"])


class _Counter:
    def __init__(self, computations: Mapping[str, Computation], devices: int, mesh: Mapping[str, int]):
        self.computations = computations
        self.devices = devices
        self.mesh = mesh if math.prod(mesh.values()) == devices else {}
        self.done: dict[str, Totals] = {}

    def total(self, name: str) -> Totals:
        """Everything that one run of a computation sends."""
        if name not in self.done:
            instructions = self.computations[name].instructions
            self.done[name] = _sum([self.of(instruction, instructions) for instruction in instructions.values()])
        return self.done[name]

    def of(self, instruction: Instruction, others: Mapping[str, Instruction]) -> Totals:
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in _KINDS:
            return self.collective(kind, instruction, sum(others[operand].bytes for operand in instruction.operands))
        if kind in _NOT_COUNTED:
            raise ValueError(f"can't count the bytes of {instruction.name}: {opcode}")
        if opcode.endswith(("-done", "-update")):  # the other end of what was counted at its start
            return {}
        inside = [self.total(name) for name in instruction.called]
        if opcode == "conditional":
            return max(inside, key=lambda totals: sum(sent for _, sent in totals.values()))
        if opcode == "while" and any(inside):
            if instruction.trip_count is None:
                raise ValueError(f"can't count the bytes of {instruction.name}: how often this loop runs is not known")
            return _sum(inside * instruction.trip_count)
        return _sum(inside)

    def collective(self, kind: str, instruction: Instruction, size: int) -> Totals:
        """Of one collective into which each device puts `size` bytes."""
        if kind == "collective-permute":
            groups = instruction.pairs()
            sent = float(size if groups else 0)
        else:
            groups = instruction.groups(self.devices)
            n = max(map(len, groups))
            sent = size * {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n}.get(kind, (n - 1) / n)
        return {(kind, self.axes(groups)): (1, sent)} if sent else {}

    def axes(self, groups: Sequence[Sequence[int]]) -> str:
        """The mesh axes along which members of the groups differ."""
        if not self.mesh:
            return "?"
        places = [np.stack(np.unravel_index(group, tuple(self.mesh.values())), -1) for group in groups]
        return "+".join(name for i, name in enumerate(self.mesh) if any(np.ptp(place[:, i]) for place in places))


def _sum(parts: Sequence[Totals]) -> Totals:
    out: Totals = {}
    for part in parts:
        for key, (count, sent) in part.items():
            old = out.get(key, (0, 0.0))
            out[key] = old[0] + count, old[1] + sent
    return out
