"""A whole model: the three networks, their configuration, and the backward direction's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx
from jax import Array

from svdjax.config import SVDConfig
from svdjax.models.clip import CLIPVision
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE

NETWORKS = {"unet": UNet, "vae": VAE, "image_encoder": CLIPVision}  # the attributes of `SVD` and of `SVDConfig`


@dataclass(frozen=True)
class SVD:
    """Stable Video Diffusion, as `svdjax.load` returns it.

    Attributes:
        config: shapes and schedule.
        unet, vae, image_encoder: the networks; their `dtype` is that of their computation.
        backward: the backward direction's own tensors by dotted name (`svdjax.models.backward`), or None if there are none.
    """

    config: SVDConfig
    unet: UNet
    vae: VAE
    image_encoder: CLIPVision
    backward: dict[str, Array] | None


def leaves(network: nnx.Module) -> dict[str, Any]:
    """The values of all parameters by dotted name: arrays, or `jax.ShapeDtypeStruct`s of an abstract network."""
    flat = nnx.to_flat_state(nnx.state(network))
    return {".".join(map(str, path)): variable.get_value() for path, variable in flat}


def fill(network: Any, values: Mapping[str, Array]) -> Any:
    """The network with `values` for its parameters, by dotted name; every parameter must be given."""
    graphdef, state = nnx.split(network)
    flat = [(path, variable.replace(values[".".join(map(str, path))])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


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
