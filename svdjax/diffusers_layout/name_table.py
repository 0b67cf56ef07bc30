"""Names and axes of tensors in PyTorch and in svdjax: one table for both directions of the conversion.

Every tensor of a network has one row: `MODULES` and `LEAVES` give its PyTorch name and its layout. Other tensors of a source
file are refused unless `IGNORED` lists them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from svdjax.checkpoints.safetensors_reader import NUMPY_DTYPES
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, leaves

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Order of the axes of one kind of tensor.

    Attributes:
        axes: for each of svdjax's axes, the index of the PyTorch axis.
        ones: number of trailing axes of length 1 that only PyTorch has.
    """

    axes: tuple[int, ...]
    ones: int = 0

    def to_flax(self, x: Any) -> Any:
        """Reorder a PyTorch tensor, given as a numpy array, to svdjax's axes."""
        return x.reshape(x.shape[: x.ndim - self.ones]).transpose(self.axes)

    def to_torch(self, x: Any) -> Any:
        """Reorder to PyTorch's axes, the inverse of `to_flax`."""
        inverse = [self.axes.index(i) for i in range(len(self.axes))]
        return x.transpose(inverse).reshape(self.torch_shape(x.shape))

    def torch_shape(self, shape: Shape) -> Shape:
        """PyTorch's shape of a tensor that has `shape` in svdjax."""
        return tuple(shape[self.axes.index(i)] for i in range(len(self.axes))) + (1,) * self.ones


VECTOR = Layout((0,))
TABLE = Layout((0, 1))  # an embedding: (entry, feature) in both
LINEAR = Layout((1, 0))  # (out, in) -> (in, out)
CONV = Layout((2, 3, 1, 0))  # (out, in, y, x) -> (y, x, in, out)
TEMPORAL_CONV = Layout((2, 1, 0), ones=2)  # (out, in, frame, 1, 1) -> (frame, in, out)

# Modules with another name in diffusers: (svdjax's path, PyTorch's), matched as whole segments anywhere in a path.
MODULES = (
    ("to_out", "to_out.0"),
    ("ff.proj_in", "ff.net.0.proj"),
    ("ff.proj_out", "ff.net.2"),
    ("ff_in.proj_in", "ff_in.net.0.proj"),
    ("ff_in.proj_out", "ff_in.net.2"),
)

# Tensors within their module: (svdjax's name, PyTorch's, layout). An entry applies to tensors with as many axes as its layout.
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

# Tensors of source files that are not weights, by network.
IGNORED = {
    "image_encoder": frozenset({"vision_model.embeddings.position_ids"}),  # 0, 1, 2, ...: a buffer in old transformers versions
}


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a network: its shape in svdjax, its name and shape in PyTorch, and the order of its axes."""

    shape: Shape
    torch_name: str
    torch_shape: Shape
    layout: Layout

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorHeader(Protocol):
    """A tensor's entry in the header of a safetensors file."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> Shape: ...


def torch_row(leaf: str, shape: Shape) -> TensorRow:
    """The row of one tensor.

    Args:
        leaf: dotted name in svdjax, such as `mid_block.resnets.0.spatial_res_block.conv1.kernel`.
        shape: its shape in svdjax.

    Raises:
        KeyError: no entry of `LEAVES` covers it.
    """
    module, _, name = leaf.rpartition(".")
    entries = [entry[1:] for entry in LEAVES if entry[0] == name and len(entry[2].axes) == len(shape)]
    if not entries:
        raise KeyError(f"{leaf} of shape {shape} has no entry in LEAVES")
    torch_leaf, layout = entries[0]
    for ours, theirs in MODULES:
        module = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, module)
    return TensorRow(shape, f"{module}.{torch_leaf}" if module else torch_leaf, layout.torch_shape(shape), layout)


def table(shapes: Mapping[str, Shape]) -> dict[str, TensorRow]:
    """The rows of tensors with these shapes, by dotted name in svdjax."""
    return {leaf: torch_row(leaf, shape) for leaf, shape in shapes.items()}


def network_table(network: str, config: SVDConfig) -> dict[str, TensorRow]:
    """The rows of all tensors of a network, by dotted name in svdjax.

    Args:
        network: a key of `svdjax.models.svd.NETWORKS`.
        config: the model's configuration.
    """
    model = abstract(NETWORKS[network], getattr(config, network), np.float32)
    return table({leaf: value.shape for leaf, value in leaves(model).items()})


def check_tensors(network: str, rows: Mapping[str, TensorRow], headers: Mapping[str, TensorHeader], where: str) -> None:
    """Check the headers of a network's files against its name table, before any weights are read.

    Args:
        network: `unet`, `vae` or `image_encoder`.
        rows: the network's name table.
        headers: dtype and shape of each tensor in its files, by PyTorch name.
        where: the file or index, for messages.

    Raises:
        InputError: tensors that are missing, unexpected, of another shape, or not of a floating point type.
    """
    expected = {row.torch_name: row.torch_shape for row in rows.values()}
    ignored = IGNORED.get(network, frozenset())
    found = {name: header for name, header in headers.items() if name in expected or name not in ignored}
    check_headers(expected, found, where, f"the {network}'s configuration describes")


def check_headers(expected: Mapping[str, Shape], headers: Mapping[str, TensorHeader], where: str, described: str) -> None:
    """Check names, shapes and types of tensors.

    Args:
        expected: the shape of each tensor by name.
        headers: dtype and shape of each tensor in the file.
        where: the file or index, for messages.
        described: what the expected weights are, for messages, such as `the configuration describes`.

    Raises:
        InputError: see `check_tensors`.
    """
    missing = [name for name in expected if name not in headers]
    unexpected = [name for name in headers if name not in expected]
    problems = [f"lacks {_some(missing)}"] * bool(missing) + [f"has unexpected {_some(unexpected)}"] * bool(unexpected)
    if problems:
        raise InputError(f"{where}: {' and '.join(problems)}: not the weights that {described}")
    shapes = [
        f"{name} is {_by(headers[name].shape)}, expected {_by(shape)}"
        for name, shape in expected.items()
        if tuple(headers[name].shape) != shape
    ]
    if shapes:
        raise InputError(f"{where}: {_some(shapes, 'tensors with other shapes than in the configuration')}")
    dtypes = [f"{name} is {headers[name].dtype}" for name in expected if headers[name].dtype not in NUMPY_DTYPES]
    if dtypes:
        raise InputError(f"{where}: {_some(dtypes, 'tensors of other types')}, expected one of {', '.join(NUMPY_DTYPES)}")


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _some(items: Sequence[str], what: str = "tensors", most: int = 3) -> str:
    """A single item unchanged; several items with their number and the first few: `5 tensors (a, b, c, ...)`."""
    listed = ", ".join(items[:most]) + (", ..." if len(items) > most else "")
    return listed if len(items) == 1 else f"{len(items):,} {what} ({listed})"
