"""Communication between devices in one run of a compiled program, from its HLO.

Ring algorithms are assumed; they send the least. In a group of n devices, with b bytes of input on each, each device sends:

    all-gather          (n - 1) b           its own part, and the parts of n - 2 others
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

from sample.planning.hlo import Computation, Instruction, parse

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_NOT_COUNTED = ("collective-broadcast", "ragged-all-to-all", "send", "recv")

Totals = dict[tuple[str, str], tuple[int, float]]  # (kind, axes) -> (count, bytes)


@dataclass(frozen=True)
class Traffic:
    """Communication of one kind of collective along some mesh axes in a run.

    Attributes:
        kind: `all-gather`, `all-reduce`, `reduce-scatter`, `all-to-all` or `collective-permute`.
        axes: mesh axes along which the members of a device group differ, joined by `+`; `?` if there is no mesh of all devices.
        count: number of collectives, loop iterations included.
        bytes: bytes sent by each device.
    """

    kind: str
    axes: str
    count: int
    bytes: float


def traffic(compiled: Any, mesh: Mesh | AbstractMesh | None = None) -> list[Traffic]:
    """Collectives of a program, most expensive first.

    Loop bodies count once per iteration. Of the branches of a conditional, the most expensive one counts. Asynchronous
    collectives count at their start.

    Args:
        compiled: from `jax.jit(fn).lower(...).compile()`, or the text of its HLO.
        mesh: the mesh that the program was compiled for; it gives the names of the axes.

    Raises:
        ValueError: a collective in a loop of unknown length, or of an unsupported kind.
    """
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    computations, entry = parse(text)
    partitions = re.search(r"\bnum_partitions=(\d+)", text)
    counter = _Counter(computations, int(partitions[1]) if partitions else 1, {} if mesh is None else dict(mesh.shape))
    rows = [Traffic(*key, *values) for key, values in counter.total(entry).items()]
    return sorted(rows, key=lambda t: (-t.bytes, t.kind, t.axes))


def table(rows: Sequence[Traffic]) -> str:
    """The result of `traffic` as text, with a total."""
    lines = [f"{'collective':<20}{'axes':<14}{'count':>7}{'MB sent by each device':>24}"]
    lines += [f"{t.kind:<20}{t.axes:<14}{t.count:>7}{t.bytes / 1e6:>24.3f}" for t in rows]
    return "\n".join([*lines, f"{'all':<34}{sum(t.count for t in rows):>7}{sum(t.bytes for t in rows) / 1e6:>24.3f}"])


class _Counter:
    """Sums the communication of a program's computations; the total of each computation is cached."""

    def __init__(self, computations: Mapping[str, Computation], devices: int, mesh: Mapping[str, int]):
        self.computations = computations
        self.devices = devices
        self.mesh = mesh if math.prod(mesh.values()) == devices else {}
        self.done: dict[str, Totals] = {}

    def total(self, name: str) -> Totals:
        """Communication of one run of a computation."""
        if name not in self.done:
            computation = self.computations[name]
            self.done[name] = _sum([self.instruction(each, computation) for each in computation.values()])
        return self.done[name]

    def instruction(self, instruction: Instruction, computation: Computation) -> Totals:
        """Communication of one run of an instruction of a computation."""
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in _KINDS:
            return self.collective(kind, instruction, sum(computation[operand].bytes for operand in instruction.operands))
        if kind in _NOT_COUNTED:
            raise ValueError(f"can't count the bytes of {instruction.name}: {opcode}")
        if opcode.endswith(("-done", "-update")):  # counted at its start
            return {}
        called = [self.total(name) for name in instruction.called]
        if opcode == "conditional":
            return max(called, key=lambda totals: sum(sent for _, sent in totals.values()))
        if opcode == "while" and any(called):
            if instruction.trip_count is None:
                raise ValueError(f"can't count the bytes of {instruction.name}: the length of this loop is unknown")
            return _sum(called * instruction.trip_count)
        return _sum(called)

    def collective(self, kind: str, instruction: Instruction, size: int) -> Totals:
        """Communication of a collective with `size` bytes of input on each device."""
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
