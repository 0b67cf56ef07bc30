"""Parser for the HLO text of a compiled program: computations, the calls between them, device groups of collectives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*->.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
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
        bytes: size of its result in bytes.
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
        """Number of iterations of a loop, if the compiler knows it."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else None

    def groups(self, devices: int) -> list[list[int]]:
        """Device groups of a collective, as positions in the mesh; `devices` is the number of all devices."""
        return self._parse(_GROUPS, "groups", lambda reader: device_groups(reader, devices))

    def pairs(self) -> list[list[int]]:
        """[source, target] of each transfer of a collective-permute, without transfers from a device to itself."""
        pairs = self._parse(_PAIRS, "pairs", lambda reader: reader.sequence("{", lambda: reader.numbers("{", "}"), "}"))
        return [[source, target] for source, target in pairs if source != target]

    def _parse(self, attribute: str, what: str, parse: Callable[[_Reader], T]) -> T:
        _, found, text = self.attributes.partition(attribute)
        try:
            if found:
                return parse(_Reader(text))
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
            current[found["name"]] = _instruction(found["name"], re.sub(r"/\*.*?\*/", "", found["rest"]))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return computations, entry


def _instruction(name: str, rest: str) -> Instruction:
    """Parse the text after `name = `: type, opcode, operands in parentheses, attributes."""
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"can't read the HLO of {name}: {rest[:80]}")
    close = _closing(rest, opcode.end() - 1)
    text = rest[opcode.end() : close - 1]
    # an operand is a name, possibly after its type; the % of names may be absent
    operands = re.findall(r"%([\w.\-]+)", text) or [part.split()[-1] for part in text.split(",") if part.strip()]
    return Instruction(name=name, opcode=opcode[1], bytes=_bytes(rest[:end]), operands=operands, attributes=rest[close:])


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"can't read HLO: no end of {text[start : start + 80]}")


def _bytes(type_text: str) -> int:
    """Size of a type, such as `f32[2,3]{1,0}` or a tuple of types."""
    total = 0
    for array in _ARRAY.finditer(re.sub(r"\{[^{}]*\}", "", type_text)):
        bits = int(array["bits"] or {"p": 8, "t": 0}[array[0][0]])  # pred takes one byte, a token none
        total += math.ceil(math.prod(map(int, re.findall(r"\d+", array["shape"]))) * bits / 8)
    return total


class _Reader:
    """Reads a text from left to right, skipping spaces."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0

    def match(self, pattern: str) -> str | None:
        """Read a regular expression if it matches here."""
        found = re.compile(rf" *({pattern})").match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        return found[1]

    def sees(self, mark: str) -> bool:
        """Whether `mark` comes next."""
        return self.text.startswith(mark, self.position)

    def accept(self, mark: str) -> bool:
        """Read `mark` if it comes next."""
        return self.match(re.escape(mark)) is not None

    def expect(self, pattern: str) -> str:
        """Read a regular expression that has to match here."""
        found = self.match(pattern)
        if found is None:
            raise ValueError(f"expected {pattern} at {self.text[self.position : self.position + 20]!r}")
        return found

    def number(self) -> int:
        return int(self.expect(r"\d+"))

    def name(self) -> str:
        """Read a name, with or without quotes."""
        return self.expect(r"'[^']*'|[\w.\-]+").strip("'")

    def sequence(self, opening: str, item: Callable[[], T], closing: str) -> list[T]:
        """Read items with commas between them, in brackets."""
        self.expect(re.escape(opening))
        items: list[T] = []
        while not self.accept(closing):
            if items:
                self.expect(",")
            items.append(item())
        return items

    def numbers(self, opening: str, closing: str) -> list[int]:
        return self.sequence(opening, self.number, closing)


def device_groups(reader: _Reader, devices: int) -> list[list[int]]:
    """Parse the device groups of a collective.

        groups  = "{}"                                                     all devices in one group
                | "{" "{" numbers "}" , ... "}"                            {{0,1},{2,3}}
                | "[" shape "]<=" order                                    [2,4]<=[4,2]T(1,0)
                | "mesh[" sizes "]" [", device_ids=(" ids ")"] "{" axes "}"
        order   = "[" shape "]" ["T(" permutation ")"]                     0, 1, ... in this shape, then transposed
        sizes   = name "=" number , ...                                    'a'=2,'b'=8
        ids     = order | numbers
        axes    = name [":(" number ")" number] , ...                      axes that vary within a group, or parts of them

    Args:
        reader: at the start of the groups.
        devices: number of all devices.

    Raises:
        ValueError: another form.
    """
    if reader.accept("mesh"):
        return _mesh_groups(reader)
    if reader.sees("["):
        shape = reader.numbers("[", "]")
        reader.expect("<=")
        return _device_order(reader).reshape(shape).tolist()
    return reader.sequence("{", lambda: reader.numbers("{", "}"), "}") or [list(range(devices))]


def _mesh_groups(reader: _Reader) -> list[list[int]]:
    """Parse groups along mesh axes, such as `['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'b':(2)4}`.

    `'b':(2)4` divides b, from the outermost part to the innermost, into parts of sizes 2, 4 and 8 / (2 * 4) = 1, and means
    the part of size 4. A group has the devices that differ only along the axes or parts in braces.
    """

    def axis_size() -> tuple[str, int]:
        name = reader.name()
        reader.expect("=")
        return name, reader.number()

    def axis_part() -> tuple[str, tuple[int, int] | None]:
        name = reader.name()
        if not reader.accept(":"):
            return name, None
        (outer,) = reader.numbers("(", ")")
        return name, (outer, reader.number())

    def device_ids() -> np.ndarray:
        return _device_order(reader).ravel() if reader.sees("[") else np.array([reader.number()])

    sizes = dict(reader.sequence("[", axis_size, "]"))
    ids = np.arange(math.prod(sizes.values()))
    if reader.accept(", device_ids="):
        ids = np.concatenate(reader.sequence("(", device_ids, ")"))
    within = dict(reader.sequence("{", axis_part, "}"))

    shape: list[int] = []  # three axes for each mesh axis: the outer part, the part itself, the inner part
    varying: list[int] = []  # indices in `shape` of the axes that vary within a group
    for name, size in sizes.items():
        outer, part = within.get(name) or (1, size)
        if name in within:
            varying.append(len(shape) + 1)
        shape += [outer, part, size // (outer * part)]
    members = math.prod(shape[axis] for axis in varying)
    return np.moveaxis(ids.reshape(shape), varying, range(-len(varying), 0)).reshape(-1, members).tolist()


def _device_order(reader: _Reader) -> np.ndarray:
    """Parse `[2,4]T(1,0)`: the numbers 0, 1, ... in shape (2, 4), then transposed."""
    shape = reader.numbers("[", "]")
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(reader.numbers("(", ")")) if reader.accept("T") else ids
