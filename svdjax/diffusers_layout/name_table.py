"""The conversion between PyTorch's tensors and this package's, as a table that can be read in both directions.

Every leaf of a model has one row: its PyTorch name follows from `MODULES` and `LEAVES`, its values from the row's layout.
What a source file holds beyond that is named in `IGNORED` or refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from svdjax.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the axes of one kind of tensor correspond.

    Attributes:
        axes: which PyTorch axis each axis of ours is.
        ones: trailing axes of length 1 that only PyTorch has.
    """

    axes: tuple[int, ...]
    ones: int = 0

    def to_flax(self, x: Any) -> Any:
        """A PyTorch tensor as a numpy array -> our axes."""
        return x.reshape(x.shape[: x.ndim - self.ones]).transpose(self.axes)

    def to_torch(self, x: Any) -> Any:
        """The inverse of `to_flax`."""
        inverse = [self.axes.index(i) for i in range(len(self.axes))]
        return x.transpose(inverse).reshape(self.torch_shape(x.shape))

    def torch_shape(self, shape: Shape) -> Shape:
        """PyTorch's shape of what has `shape` here."""
        return tuple(shape[self.axes.index(i)] for i in range(len(self.axes))) + (1,) * self.ones


VECTOR = Layout((0,))
TABLE = Layout((0, 1))  # an embedding: one row an entry, in both
LINEAR = Layout((1, 0))  # (out, in) -> (in, out)
CONV = Layout((2, 3, 1, 0))  # (out, in, y, x) -> (y, x, in, out)
TEMPORAL_CONV = Layout((2, 1, 0), ones=2)  # (out, in, frame, 1, 1) -> (frame, in, out)

# Modules with another path here than in diffusers: (ours, PyTorch's), whole segments anywhere in a path.
MODULES = (
    ("to_out", "to_out.0"),
    ("ff.proj_in", "ff.net.0.proj"),
    ("ff.proj_out", "ff.net.2"),
    ("ff_in.proj_in", "ff_in.net.0.proj"),
    ("ff_in.proj_out", "ff_in.net.2"),
)

# Names of tensors within their module: (ours, PyTorch's, layout). A row applies to tensors with as many axes as its layout.
LEAVES = (
    ("kernel", "weight", LINEAR),
    ("kernel", "weight", CONV),
    ("kernel", "weight", TEMPORAL_CONV),
    ("scale", "weight", VECTOR),
    ("bias", "bias", VECTOR),
    ("mix_factor", "mix_factor", VECTOR),
    ("class_embedding", "class_embedding", VECTOR),
    ("embedding", "weight", TABLE),
)

# Tensors of source files that hold no weights, by component.
IGNORED = {
    "image_encoder": frozenset({"vision_model.embeddings.position_ids"}),  # 0, 1, 2, ...: a buffer of older transformers
}

FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names of the dtypes that weights may have


@dataclass(frozen=True)
class Row:
    """One tensor: its name and shape in PyTorch, and how its values get here."""

    torch_name: str
    torch_shape: Shape
    layout: Layout

    @property
    def size(self) -> int:
        return math.prod(self.torch_shape)


class Header(Protocol):
    """What a file says of a tensor before it is read."""

    dtype: str
    shape: Shape


def torch_row(leaf: str, shape: Shape) -> Row:
    """The row of one leaf.

    Args:
        leaf: dotted name here, such as `mid_block.resnets.0.spatial_res_block.conv1.kernel`.
        shape: its shape here.

    Raises:
        KeyError: no row of `LEAVES` covers the leaf.
    """
    module, _, name = leaf.rpartition(".")
    found = [row[1:] for row in LEAVES if row[0] == name and len(row[2].axes) == len(shape)]
    if not found:
        raise KeyError(f"{leaf} of shape {shape} has no row in LEAVES")
    torch_leaf, layout = found[0]
    for ours, theirs in MODULES:
        module = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, module)
    return Row(f"{module}.{torch_leaf}" if module else torch_leaf, layout.torch_shape(shape), layout)


def table(shapes: Mapping[str, Shape]) -> dict[str, Row]:
    """The rows of all leaves of a model, by dotted name here."""
    return {leaf: torch_row(leaf, shape) for leaf, shape in shapes.items()}


def check(component: str, rows: Mapping[str, Row], headers: Mapping[str, Header], where: str) -> None:
    """Hold what the files of a component contain against its table, before anything is read.

    Args:
        component: `unet`, `vae` or `image_encoder`.
        rows: the component's table.
        headers: dtype and shape of each tensor in its files.
        where: the file or index, for messages.

    Raises:
        InputError: tensors that are missing, unexpected, of another shape, or not of a floating point type.
    """
    expected = {row.torch_name: row.torch_shape for row in rows.values()}
    missing = [name for name in expected if name not in headers]
    unexpected = [name for name in headers if name not in expected and name not in IGNORED.get(component, ())]
    problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unexpected {_some(unexpected)}"] * bool(unexpected)
    if problems:
        raise InputError(f"{where}: {' and '.join(problems)}: not the weights that the {component}'s configuration describes")
    shapes = [
        f"{name} is {_by(headers[name].shape)}, expected {_by(shape)}"
        for name, shape in expected.items()
        if tuple(headers[name].shape) != shape
    ]
    if shapes:
        raise InputError(f"{where}: {_some(shapes, 'tensors of another shape than the configuration gives')}")
    dtypes = [f"{name} is {headers[name].dtype}" for name in expected if headers[name].dtype not in FLOATS]
    if dtypes:
        raise InputError(f"{where}: {_some(dtypes, 'tensors of another type')}, expected one of {', '.join(FLOATS)}")


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _some(items: Sequence[str], what: str = "tensors", most: int = 3) -> str:
    """The first few of a list, and how many there are: `5 tensors: a, b, c, ...`."""
    listed = ", ".join(items[:most]) + (", ..." if len(items) > most else "")
    return listed if len(items) == 1 else f"{len(items):,} {what} ({listed})"
