"""Bytes that one run of a compiled GPU program moves through device memory, from its HLO.

Every kernel reads what it needs of its operands once and writes its result once:

    a slice, gather or dynamic slice    reads the part that it takes, also inside a fusion
    an update in place                  reads and writes the updated part; the rest stays where it is
    a fusion                            reads each operand once, however often it is used; intermediates cost nothing
    a loop                              its body, times the number of iterations
    a conditional                       the branch that moves most
    a library call                      operands and results, without its workspace

This is a lower bound: caches are assumed to hold what a kernel reads twice, such as tiles of a matrix product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sample.planning.hlo import Computation, Instruction, parse
from sample.planning.kernel_kinds import COLLECTIVES, kind_of, kind_of_library_call
from sample.planning.operands import ALL, UPDATES, is_in_place, operand_parts, results, share_of, update_bytes

_FREE = frozenset(
    {
        "add-dependency",
        "after-all",
        "bitcast",
        "constant",
        "domain",
        "get-tuple-element",
        "opt-barrier",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
    }
)
_LIBRARIES_WITH_WORKSPACE = ("__cudnn$", "__cublas$")  # their last result is the workspace


@dataclass(frozen=True)
class Kernels:
    """Kernels of one kind in a run of a program.

    Attributes:
        kind: such as `matrix product`, `convolution`, `reduction` or `elementwise`.
        count: number of kernels, loop iterations included.
        bytes: bytes read and written in device memory.
    """

    kind: str
    count: int
    bytes: float


def moved(compiled: Any) -> list[Kernels]:
    """Kernels of a program by kind, with the bytes that they move on one device, largest first.

    Args:
        compiled: from `jax.jit(fn).lower(...).compile()`, or the text of its HLO.

    Raises:
        ValueError: the text is not HLO, or a loop has an unknown length.
    """
    computations, entry = parse(compiled if isinstance(compiled, str) else compiled.as_text())
    totals = _Counter(computations).total(entry)
    return sorted((Kernels(kind, *total) for kind, total in totals.items()), key=lambda k: (-k.bytes, k.kind))


def total(kernels: Iterable[Kernels]) -> int:
    """Bytes of all kernels."""
    return round(sum(kernel.bytes for kernel in kernels))


Totals = dict[str, tuple[int, float]]  # kind -> (count, bytes)


class _Counter:
    """Sums the kernels of a program's computations; the total of each computation is cached."""

    def __init__(self, computations: Mapping[str, Computation]):
        self.computations = computations
        self.done: dict[str, Totals] = {}

    def total(self, name: str) -> Totals:
        """Kernels of one run of a computation."""
        if name not in self.done:
            computation = self.computations[name]
            self.done[name] = _sum(self.instruction(each, computation) for each in computation.values())
        return self.done[name]

    def instruction(self, instruction: Instruction, computation: Computation) -> Totals:
        """Kernels of one run of an instruction of a computation."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-update") or opcode == "async-done":  # counted at their start
            return {}
        if opcode in ("while", "conditional", "call", "async-start"):
            called = [self.total(name) for name in instruction.called]
            if opcode == "conditional":
                return max(called, key=lambda totals: sum(size for _, size in totals.values()))
            if opcode == "while" and any(called):
                if instruction.trip_count is None:
                    raise ValueError(f"can't count the bytes of {instruction.name}: the length of this loop is unknown")
                return _sum(called * instruction.trip_count)
            return _sum(called)
        size = self.read(instruction, computation) + self.written(instruction, computation)
        return {self.kind(instruction): (0 if opcode.endswith("-done") else 1, size)}  # a start and its end are one kernel

    def kind(self, instruction: Instruction) -> str:
        """The kind of a kernel."""
        opcode = instruction.opcode.removesuffix("-start").removesuffix("-done")
        if opcode == "custom-call":
            return kind_of_library_call(_target(instruction))
        return opcode if opcode in COLLECTIVES else kind_of(self.opcodes(instruction) | {opcode})

    def opcodes(self, instruction: Instruction) -> set[str]:
        """Opcodes of an instruction and, if it is a fusion, of all instructions in it."""
        found = {instruction.opcode}
        if instruction.opcode == "fusion":
            for each in self.computations[instruction.called[0]].values():
                found |= self.opcodes(each)
        return found

    def read(self, instruction: Instruction, computation: Computation) -> float:
        """Bytes of device memory that a kernel reads."""
        if instruction.opcode.endswith("-done"):
            return 0
        read: dict[str, float] = {}  # an operand may be given twice
        parts = operand_parts(instruction, computation, ALL, self.computations, in_place=True)
        for operand, part in zip(instruction.operands, parts, strict=True):
            read[operand] = min(1.0, read.get(operand, 0) + share_of(part))
        return sum(share * computation[operand].bytes for operand, share in read.items())

    def written(self, instruction: Instruction, computation: Computation) -> int:
        """Bytes of device memory that a kernel writes."""
        if instruction.opcode.endswith("-start"):
            return 0  # the result of its `-done` is counted
        if instruction.opcode == "fusion":
            body = self.computations[instruction.called[0]]
            return sum(_written(result, body, in_place=is_in_place(result, body)) for result in results(body))
        if instruction.opcode == "custom-call" and _target(instruction).startswith(_LIBRARIES_WITH_WORKSPACE):
            return sum(instruction.sizes[:-1]) if len(instruction.sizes) > 1 else instruction.bytes
        return _written(instruction, computation, in_place=True)


def _written(instruction: Instruction, computation: Computation, *, in_place: bool) -> int:
    updates = in_place and instruction.opcode in UPDATES
    return update_bytes(instruction, computation) if updates else instruction.bytes


def _target(instruction: Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def _sum(parts: Iterable[Totals]) -> Totals:
    out: Totals = {}
    for part in parts:
        for kind, (count, size) in part.items():
            old = out.get(kind, (0, 0.0))
            out[kind] = old[0] + count, old[1] + size
    return out
