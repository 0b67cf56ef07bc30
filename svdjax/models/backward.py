"""The backward direction: which temporal tensors it has of its own, and where it is given the forward maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
from flax import nnx
from jax import Array

if TYPE_CHECKING:
    from svdjax.models.unet import UNet

EVERYWHERE = ("",)  # a prefix of every path
NOWHERE = ()
UP_BLOCKS = ("up_blocks",)


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


def backward_unet(unet: UNet, params: Mapping[str, Array]) -> UNet:
    """A UNet with the tensors of `params` (see `Backward`) in place of its own: the second network of an explicit pass."""
    graphdef, state = nnx.split(unet)
    flat = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    leaves = dict(nnx.to_flat_state(state))
    for name, value in params.items():
        if name not in flat:
            raise KeyError(f"{name} is not a tensor of the UNet")
        leaves[flat[name]] = leaves[flat[name]].replace(value)
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))
