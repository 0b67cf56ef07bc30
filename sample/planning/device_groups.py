"""Device groups of a collective, from the text of its HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Reader:
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


def device_groups(reader: Reader, devices: int) -> list[list[int]]:
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
        devices: total number of devices.

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


def _mesh_groups(reader: Reader) -> list[list[int]]:
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


def _device_order(reader: Reader) -> np.ndarray:
    """Parse `[2,4]T(1,0)`: the numbers 0, 1, ... in shape (2, 4), then transposed."""
    shape = reader.numbers("[", "]")
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(reader.numbers("(", ")")) if reader.accept("T") else ids
