"""Reading the text of a compiled program's HLO: its computations, what they call, which devices communicate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np

_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*->.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(?:pred|token|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,<= ]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|\S+)")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_GROUPS = re.compile(
    r"replica_groups=(\{\}|\{\{.*?\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|mesh\[.*?\](?:, device_ids=\(.*?\)\)?)? \{.*?\})"
)
_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")


@dataclass(frozen=True)
class Instruction:
    """One line of HLO.

    Attributes:
        name: unique within its computation.
        opcode: such as `all-gather-start`.
        bytes: of its result.
        operands: names of instructions of the same computation.
        attributes: the text after the operands.
    """

    name: str
    opcode: str
    bytes: int
    operands: list[str]
    attributes: str

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        return [name for names in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.\-]+", names)]

    @property
    def trip_count(self) -> int | None:
        """How often a loop runs its body, where the compiler knows."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else None

    def groups(self, devices: int) -> list[list[int]]:
        """The devices that a collective has communicate, of `devices` in all, as positions in the mesh.

        XLA writes them as `{{0,1},{2,3}}`, as `{}` for one group of all, as `[2,4]<=[4,2]T(1,0)`, a reshaped and
        transposed count, or as a mesh and some of its axes (`_mesh_groups`).
        """
        found = _GROUPS.search(self.attributes)
        if found is None:
            raise ValueError(f"can't read the groups of {self.name}: {self.attributes[:120]}")
        text = found[1]
        if text == "{}":
            return [list(range(devices))]
        if text.startswith("mesh"):
            return _mesh_groups(text)
        if text.startswith("{"):
            return [_numbers(group) for group in re.findall(r"\{([\d, ]*)\}", text[1:-1])]
        groups, count = text.split("<=")
        return _iota(count).reshape(_numbers(groups[1:-1])).tolist()

    def pairs(self) -> list[list[int]]:
        """Source and target of everything that a permutation sends to another device."""
        found = _PAIRS.search(self.attributes)
        if found is None:
            raise ValueError(f"can't read the pairs of {self.name}: {self.attributes[:120]}")
        pairs = [_numbers(pair) for pair in re.findall(r"\{([\d, ]*)\}", found[1])]
        return [pair for pair in pairs if pair[0] != pair[1]]


@dataclass
class Computation:
    """A function of the program: its instructions by name."""

    instructions: dict[str, Instruction] = field(default_factory=dict)


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of the one that runs first.

    Raises:
        ValueError: text that isn't HLO, or HLO of an unknown form.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", Computation()
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header["name"]] = Computation()
            entry = header["name"] if header["entry"] else entry
        elif computations and (found := _INSTRUCTION.match(line)):
            current.instructions[found["name"]] = _instruction(found["name"], re.sub(r"/\*.*?\*/", "", found["rest"]))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    """What follows `name = `: type, opcode, operands in parentheses, attributes."""
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"can't read the HLO of {name}: {rest[:80]}")
    close = _closing(rest, opcode.end() - 1)
    operands = rest[opcode.end() : close - 1]
    # an operand is its name, perhaps after its type; names may lack their %
    names = re.findall(r"%([\w.\-]+)", operands) or [part.split()[-1] for part in operands.split(",") if part.strip()]
    return Instruction(name, opcode[1], _bytes(rest[:end]), names, rest[close:])


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"can't read HLO: no end of {text[start : start + 80]}")


def _bytes(type_text: str) -> int:
    """Bytes of a type, such as `f32[2,3]{1,0}` or a tuple of types."""
    total = 0
    for array in _ARRAY.finditer(re.sub(r"\{[^{}]*\}", "", type_text)):
        bits = int(array["bits"] or {"p": 8, "t": 0}[array[0][0]])  # pred takes a byte, a token nothing
        total += math.ceil(math.prod(map(int, re.findall(r"\d+", array["shape"]))) * bits / 8)
    return total


def _mesh_groups(text: str) -> list[list[int]]:
    """Of `mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'b':(2)4}`: the axes after the mesh vary within a group.

    `(2)4` is the part of size 4 of an axis, before which lies a part of size 2. Without `device_ids` devices are counted.
    """
    mesh, ids, axes = re.fullmatch(r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{(.*?)\}", text).groups()
    within = {name: (int(before or 1), part) for name, before, part in re.findall(r"([\w.\-]+)'?(?::\((\d+)\)(\d+))?", axes)}
    shape, varying = [], []
    for name, size in re.findall(r"([\w.\-]+)'?=(\d+)", mesh):
        before, part = within.get(name, (1, ""))
        varying += [len(shape) + 1] * (name in within)
        shape += [before, int(part or size), int(size) // before // int(part or size)]
    devices = _iota(f"[{math.prod(shape)}]" if ids is None else ids) if ids is None or "[" in ids else np.array(_numbers(ids))
    group = math.prod(shape[i] for i in varying)
    return np.moveaxis(devices.reshape(shape), varying, range(-len(varying), 0)).reshape(-1, group).tolist()


def _iota(text: str) -> np.ndarray:
    """`[2,4]T(1,0)`: counted in the shape [2,4], then transposed."""
    shape, order = re.fullmatch(r"\[(.*?)\](?:T\((.*)\))?", text).groups()
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids if order is None else ids.transpose(_numbers(order))


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n.strip()]
