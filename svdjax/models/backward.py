"""The backward direction: its own temporal tensors, their names, and the layers that use the forward attention maps.

Backward tensors are a flat mapping from dotted names to arrays. A name is the path of a temporal self-attention in the UNet
and the kind of the tensor:

    mid_block.attentions.0.temporal_transformer_blocks.0.attn1 . to_v.kernel
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from svdjax.errors import InputError

# Kinds of backward tensors. A complete set has one tensor of each kind for every temporal self-attention of the UNet.
VALUES = ("to_v.kernel", "to_out.kernel", "to_out.bias")  # in every set; the paper's method trains the kernels
QUERIES = ("to_q.kernel", "to_k.kernel")  # only if queries and keys are trained too, an ablation of the paper

# Sets of layers, by prefixes of their paths.
EVERYWHERE = ("",)
NOWHERE = ()
UP_BLOCKS = ("up_blocks",)

_TEMPORAL_TENSOR = re.compile(r"(?:.*\.)?temporal_transformer_blocks\.\d+\.attn1\.(?P<kind>.+)")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Backward:
    """The backward half of a lock-step UNet call.

    Attributes:
        params: tensors that replace the UNet's own in the backward half, by dotted name: those of v and out, or of q, k, v and
            out. Empty to use the forward weights.
        maps_from_forward: path prefixes of the temporal self-attentions that use the forward half's attention maps, rotated, in
            the backward half; the other layers compute their own maps. `EVERYWHERE` is the paper's method, `UP_BLOCKS` its
            ablation without fine-tuning. `NOWHERE` is its ablation without rotated maps, and is also used for TRF.
    """

    params: Mapping[str, Array] = field(default_factory=dict)
    maps_from_forward: tuple[str, ...] = field(default=EVERYWHERE, metadata={"static": True})

    def takes_maps(self, path: str) -> bool:
        """Whether the temporal self-attention at `path` uses the forward maps in its backward half."""
        return any(path.startswith(prefix) for prefix in self.maps_from_forward)


def tensor_kind(name: str) -> str | None:
    """Kind of a temporal self-attention's tensor, such as `to_v.kernel`; None for all other tensors."""
    match = _TEMPORAL_TENSOR.fullmatch(name)
    return match["kind"] if match else None


def trained_kinds(names: Collection[str]) -> tuple[str, ...]:
    """The kinds of `VALUES` and `QUERIES`, in that order, that occur in a set of tensors."""
    return tuple(kind for kind in VALUES + QUERIES if any(name.endswith(f".{kind}") for name in names))


def names_of_kinds(leaves: Collection[str], kinds: Collection[str]) -> list[str]:
    """Names of a complete set of backward tensors.

    Args:
        leaves: names of all tensors of a UNet.
        kinds: a subset of `VALUES` and `QUERIES`.
    """
    return [name for name in leaves if tensor_kind(name) in kinds]


def check_backward_tensors(shapes: Mapping[str, Any], leaves: Mapping[str, Any], source: str) -> None:
    """Check that a set of backward tensors is complete and fits a UNet.

    Args:
        shapes: the backward tensors by name; anything with a `shape`.
        leaves: all tensors of the UNet, in the same form.
        source: the file or folder of the set, for the error line.

    Raises:
        InputError: a name that is not in the UNet's temporal self-attentions, a missing tensor, or a wrong shape.
    """
    kinds = VALUES + QUERIES if set(trained_kinds(shapes)) & set(QUERIES) else VALUES
    expected = names_of_kinds(leaves, kinds)
    for problem, names in (
        ("lacks", [n for n in expected if n not in shapes]),
        ("has unexpected", [n for n in shapes if n not in expected]),
    ):
        if names:
            more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise InputError(f"{source}: {problem} {names[0]}{more}, expected the backward weights of this model's UNet")
    for name in expected:
        shape, expected_shape = tuple(shapes[name].shape), tuple(leaves[name].shape)
        if shape != expected_shape:
            raise InputError(f"{source}: {name} has shape {shape}, expected {expected_shape} as in this model's UNet")
