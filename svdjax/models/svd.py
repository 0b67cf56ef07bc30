"""A complete SVD model: three networks, their configuration, and the backward tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flax import nnx
from jax import Array

from svdjax.config import SVDConfig
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import Model
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE

NETWORKS = {"unet": UNet, "vae": VAE, "image_encoder": CLIPVision}  # attributes of both `SVD` and `SVDConfig`


@dataclass(frozen=True, kw_only=True)
class SVD:
    """Stable Video Diffusion, as returned by `svdjax.load`.

    Attributes:
        config: shapes of the networks and the noise schedule.
        unet, vae, image_encoder: the networks; their `dtype` is the compute dtype.
        backward: tensors of the backward direction by dotted name (see `Backward.params`), or None.
        defaults: the model's own defaults of `Settings`, by field.
    """

    config: SVDConfig
    unet: UNet
    vae: VAE
    image_encoder: CLIPVision
    backward: dict[str, Array] | None = None
    defaults: Mapping[str, int] = field(default_factory=dict)


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def leaves(network: nnx.Module) -> dict[str, Any]:
    """Values of all parameters by dotted name: arrays, or `jax.ShapeDtypeStruct`s for an abstract network."""
    return {_dotted(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(network))}


def fill(network: Model, values: Mapping[str, Array]) -> Model:
    """A copy of the network with `values` as its parameters.

    Args:
        network: any network, abstract or not.
        values: every parameter by dotted name.
    """
    graphdef, state = nnx.split(network)
    filled = [(path, variable.replace(values[_dotted(path)])) for path, variable in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def backward_unet(unet: UNet, params: Mapping[str, Array]) -> UNet:
    """The UNet of the backward direction, for a separate pass: `unet` with `params` in place of its own tensors.

    Args:
        unet: the forward UNet.
        params: see `Backward.params`.

    Raises:
        KeyError: a name that is not a tensor of the UNet.
    """
    own = leaves(unet)
    for name in params:
        if name not in own:
            raise KeyError(f"{name} is not a tensor of the UNet")
    return fill(unet, own | dict(params))
