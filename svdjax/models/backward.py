"""The backward direction: its own temporal tensors, and where it is given the forward maps.

Its tensors are a flat mapping from dotted names, such as
`mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.kernel`, to arrays. They replace the UNet's tensors in the
backward half.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import Array

from svdjax.errors import InputError

EVERYWHERE = ("",)  # a prefix of every path
NOWHERE = ()
UP_BLOCKS = ("up_blocks",)

VALUES = ("to_v.kernel", "to_out.kernel", "to_out.bias")  # always there: what the paper trains, and the bias beside it
QUERIES = ("to_q.kernel", "to_k.kernel")  # there too where queries and keys were trained, the paper's ablation

_IN_TEMPORAL_ATTENTION = re.compile(r"(?:.*\.)?temporal_transformer_blocks\.\d+\.attn1\.(.+)")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Backward:
    """The backward half of a lock-step UNet call.

    Attributes:
        params: tensors that replace the forward UNet's in the backward half, by dotted name, such as
            `mid_block.attentions.0.temporal_transformer_blocks.0.attn1.to_v.kernel`. Holds whatever was trained: v and
            out, or q, k, v and out; empty for the forward weights themselves.
        maps_from_forward: prefixes of the paths of temporal self-attentions whose backward half uses the rotated maps of
            the forward half; the others compute their own. `EVERYWHERE` is the paper's method, `UP_BLOCKS` its ablation
            without fine-tuning, `NOWHERE` that without rotated maps, and TRF.
    """

    params: Mapping[str, Array] = field(default_factory=dict)
    maps_from_forward: tuple[str, ...] = dataclasses.field(default=EVERYWHERE, metadata={"static": True})

    def takes_maps(self, path: str) -> bool:
        """Whether the temporal self-attention at `path` uses the forward maps in its backward half."""
        return any(path.startswith(prefix) for prefix in self.maps_from_forward)


def kind_of(name: str) -> str | None:
    """What a tensor is within its temporal self-attention, such as `to_v.kernel`; None for all other tensors."""
    match = _IN_TEMPORAL_ATTENTION.fullmatch(name)
    return match[1] if match else None


def trained_kinds(names: Collection[str]) -> tuple[str, ...]:
    """Which of `VALUES` and `QUERIES` a set of tensors holds, in that order."""
    return tuple(kind for kind in VALUES + QUERIES if any(name.endswith(f".{kind}") for name in names))


def expected_names(leaves: Collection[str], kinds: Collection[str]) -> list[str]:
    """The names of a complete set of `kinds` for a UNet whose tensors are `leaves`."""
    return [name for name in leaves if kind_of(name) in kinds]


def check_overlay(shapes: Mapping[str, Any], leaves: Mapping[str, Any], where: str) -> None:
    """Hold a set of backward tensors against a UNet.

    Args:
        shapes: what is given, by name; anything with `shape`.
        leaves: the UNet's tensors, the same way.
        where: where they are from, for messages.

    Raises:
        InputError: names that the UNet's temporal self-attentions don't have, an incomplete set, or another shape.
    """
    kinds = VALUES + QUERIES if set(trained_kinds(shapes)) & set(QUERIES) else VALUES
    expected = expected_names(leaves, kinds)
    for problem, names in (
        ("lacks", [n for n in expected if n not in shapes]),
        ("has unexpected", [n for n in shapes if n not in expected]),
    ):
        if names:
            more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
            raise InputError(f"{where}: {problem} {names[0]}{more}: not backward weights of this model's UNet")
    for name in expected:
        found, wanted = tuple(shapes[name].shape), tuple(leaves[name].shape)
        if found != wanted:
            raise InputError(f"{where}: {name} has shape {found}, this model's UNet {wanted}")
