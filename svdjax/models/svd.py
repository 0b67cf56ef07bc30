"""A complete SVD model: three networks, their configuration, and the backward tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from svdjax.config import SVDConfig
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import VALUES, names_of_kinds
from svdjax.models.clip import CLIPVision
from svdjax.models.initialize import Model, abstract
from svdjax.models.unet import UNet
from svdjax.models.vae import VAE

Tree = TypeVar("Tree")
# Prefixes of the VAE's tensors that encoding and decoding use.
ENCODER, DECODER = ("encoder.", "quant_conv."), ("decoder.",)
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
    defaults: Mapping[str, Any] = field(default_factory=dict)


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


def on_device(tree: Tree) -> Tree:
    """A copy of a pytree, such as a network, with all arrays on the default device; arrays already there aren't copied.

    A network that is kept in host memory is on the device as long as the result is referenced. The arrays are committed to
    the device, as in the programs that `svdjax.memory.programs.compile_here` compiles.
    """
    return jax.device_put(tree, jnp.zeros(()).sharding)


def part_on_device(vae: VAE, prefixes: tuple[str, ...]) -> VAE:
    """A copy of a VAE: only tensors with names that start with `prefixes` are on the device; programs must use no others."""
    return fill(vae, {name: on_device(x) if name.startswith(prefixes) else x for name, x in leaves(vae).items()})


def abstract_model(config: SVDConfig, dtype: Any, kinds: Collection[str] | None = VALUES) -> SVD:
    """Shapes of a model that is loaded with `dtype`.

    Args:
        config: shapes of the networks.
        dtype: dtype of computation and parameters; the VAE has at least float32 if its configuration sets `force_upcast`.
        kinds: kinds of its backward tensors, see `svdjax.models.backward`; None without.
    """
    dtype = jnp.dtype(dtype)
    unet = abstract(UNet, config.unet, dtype)
    tensors = leaves(unet)
    return SVD(
        config=config,
        unet=unet,
        vae=abstract(VAE, config.vae, stats_dtype(dtype) if config.vae.force_upcast else dtype),
        image_encoder=abstract(CLIPVision, config.image_encoder, dtype),
        backward=None if kinds is None else {name: tensors[name] for name in names_of_kinds(tensors, kinds)},
    )
