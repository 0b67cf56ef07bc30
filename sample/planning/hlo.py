"""Parser for the HLO text of a compiled program: computations, the calls between them, device groups of collectives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sample.planning.device_groups import Reader, device_groups

_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*->.*\{$")
_INSTRUCTION = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(?:pred|token|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,<= ]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation|branch_computations)=(\{[^}]*\}|\S+)")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_GROUPS = "replica_groups="
_PAIRS = "source_target_pairs="

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of HLO.

    Attributes:
        name: unique within its computation.
        opcode: such as `all-gather-start`.
        sizes: bytes of each array of its result; several if the result is a tuple.
        operands: names of instructions of the same computation; of a `parameter`, its number.
        attributes: the text after the operands.
        is_root: whether its result is the result of its computation.
    """

    name: str
    opcode: str
    sizes: list[int]
    operands: list[str]
    attributes: str
    is_root: bool = False

    @property
    def bytes(self) -> int:
        """Size of its result in bytes."""
        return sum(self.sizes)

    @property
    def called(self) -> list[str]:
        """Names of the computations that it runs."""
        return [name for names in _CALLED.findall(self.attributes) for name in re.findall(r"[\w.\-]+", names)]

    @property
    def trip_count(self) -> int | None:
        """Number of iterations of a loop, if the compiler knows it."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else None

    def groups(self, devices: int) -> list[list[int]]:
        """Device groups of a collective, as positions in the mesh; `devices` is the total number of devices."""
        return self._parse(_GROUPS, "groups", lambda reader: device_groups(reader, devices))

    def pairs(self) -> list[list[int]]:
        """[source, target] of each transfer of a collective-permute, without transfers from a device to itself."""
        pairs = self._parse(_PAIRS, "pairs", lambda reader: reader.sequence("{", lambda: reader.numbers("{", "}"), "}"))
        return [[source, target] for source, target in pairs if source != target]

    def _parse(self, attribute: str, what: str, parse: Callable[[Reader], T]) -> T:
        _, found, text = self.attributes.partition(attribute)
        try:
            if found:
                return parse(Reader(text))
        except ValueError:
            pass
        raise ValueError(f"can't read the {what} of {self.name}: {self.attributes[:120]}")


Computation = dict[str, Instruction]  # a function of the program: its instructions by name


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Parse a module: its computations by name, and the name of the entry computation.

    Raises:
        ValueError: the text is not HLO, or has an unknown form.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header["name"]] = {}
            entry = header["name"] if header["entry"] else entry
        elif computations and (found := _INSTRUCTION.match(line)):
            rest = re.sub(r"/\*.*?\*/", "", found["rest"])
            current[found["name"]] = _instruction(found["name"], rest, is_root=found["root"] is not None)
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return computations, entry


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    """Parse the text after `name = `: type, opcode, operands in parentheses, attributes."""
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"can't read the HLO of {name}: {rest[:80]}")
    close = _closing(rest, opcode.end() - 1)
    text = rest[opcode.end() : close - 1]
    # an operand is a name, possibly after its type; the % of names may be absent
    operands = re.findall(r"%([\w.\-]+)", text) or [part.split()[-1] for part in text.split(",") if part.strip()]
    return Instruction(
        name=name,
        opcode=opcode[1],
        sizes=_sizes(rest[:end]),
        operands=operands,
        attributes=rest[close:],
        is_root=is_root,
    )


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"can't read HLO: no end of {text[start : start + 80]}")


def _sizes(type_text: str) -> list[int]:
    """Bytes of each array of a type, such as `f32[2,3]{1,0}` or a tuple of types."""
    sizes = []
    for array in _ARRAY.finditer(re.sub(r"\{[^{}]*\}", "", type_text)):
        bits = int(array["bits"] or {"p": 8, "t": 0}[array[0][0]])  # pred takes one byte, a token none
        sizes.append(math.ceil(math.prod(map(int, re.findall(r"\d+", array["shape"]))) * bits / 8))
    return sizes
