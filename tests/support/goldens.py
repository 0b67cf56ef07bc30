"""Reference model "A": a tiny SVD with random weights, and the outputs of the official PyTorch code for it.

`data/A` holds its configuration files, two keyframes, and recorded outputs. Weights and most inputs are not stored: each is
drawn from a seed and its own name.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

import svdjax.models.svd
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.config_files import from_pytorch
from svdjax.diffusers_layout.name_table import table
from svdjax.models.initialize import Model, abstract

DATA = Path(__file__).parents[1] / "data" / "A"
SEED = 101
TAGS = {"unet": "unet", "vae": "vae", "image_encoder": "clip"}  # names of the components in the draws
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "image_encoder": "image_encoder/model.safetensors",
}
TRAINED = (".temporal_transformer_blocks.0.attn1.to_v.", ".temporal_transformer_blocks.0.attn1.to_out.0.")

Tensors = dict[str, np.ndarray]


def draw(name: str, shape: Iterable[int], seed: int = SEED) -> np.ndarray:
    """A standard normal float32 array, a function of its name and the seed."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(tuple(shape), dtype=np.float32)


def weight(tag: str, name: str, shape: Iterable[int], seed: int = SEED) -> np.ndarray:
    """A parameter by its PyTorch name, scaled so that activations and attention maps keep their variance at any depth."""
    z = draw(f"{tag}:{name}", shape, seed)
    leaf = name.rpartition(".")[2]
    if leaf == "mix_factor":
        return z
    if z.ndim == 1 and leaf in ("weight", "bias"):
        return np.float32(leaf == "weight") + np.float32(0.2) * z
    if leaf == "class_embedding" or "position_embedding" in name:
        return np.float32(0.5) * z
    gain = 1.0
    if "time_emb" in name or "add_embedding" in name:
        gain = 2.0
    elif any(f".{projection}." in name for projection in ("to_q", "to_k", "q_proj", "k_proj")):
        gain = 1.5
    return z * np.float32(gain / math.sqrt(math.prod(z.shape[1:])))


def torch_model(component: str, config: Mapping[str, Any]) -> Any:
    """The PyTorch module of a configuration, on the device of the surrounding `torch.device` context."""
    if component == "image_encoder":
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder
    from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel

    cls = {"unet": UNetSpatioTemporalConditionModel, "vae": AutoencoderKLTemporalDecoder}[component]
    return cls.from_config(dict(config)).eval()


def torch_weights(component: str, config: Mapping[str, Any], seed: int = SEED) -> Tensors:
    """Random values for all tensors of the PyTorch module of a configuration, by name."""
    import torch

    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in torch_model(component, config).state_dict().items()}
    return {name: weight(TAGS[component], name, shape, seed) for name, shape in shapes.items()}


def config(component: str) -> dict[str, Any]:
    """Configuration file of a component of A."""
    return json.loads((DATA / "model" / component / "config.json").read_text())


def _representable_in_16_bits(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


@functools.cache
def weights(component: str) -> Tensors:
    """Weights of a component of A by PyTorch name: float32, with values that float16 represents too."""
    return {name: _representable_in_16_bits(x) for name, x in torch_weights(component, config(component)).items()}


def backward_weights() -> Tensors:
    """The UNet of A with a random delta added to its temporal value and output projections, biases included."""
    out = dict(weights("unet"))
    for name, x in out.items():
        if any(part in name for part in TRAINED):
            scale = 0.2 if x.ndim == 1 else 0.7 / math.sqrt(x.shape[1])
            out[name] = _representable_in_16_bits(x + np.float32(scale) * draw(f"delta:{name}", x.shape))
    return out


def write_model(folder: Path) -> None:
    """Write A in diffusers layout to `folder/model`, and its backward UNet to `folder/backward`."""
    shutil.copytree(DATA / "model", folder / "model")
    shutil.copytree(DATA / "backward", folder / "backward")
    for component, file in FILES.items():
        save_file(weights(component), folder / "model" / file, {"format": "pt"})
    save_file(backward_weights(), folder / "backward" / FILES["unet"], {"format": "pt"})


def fill(model: Model, tensors: Mapping[str, np.ndarray]) -> Model:
    """A copy of a model, abstract or not, with PyTorch's tensors: each is used once, and every parameter is filled."""
    parameters = svdjax.models.svd.leaves(model)
    rows = table({name: x.shape for name, x in parameters.items()})
    assert sorted(row.torch_name for row in rows.values()) == sorted(tensors)
    values = {}
    for name, row in rows.items():
        assert row.torch_shape == tensors[row.torch_name].shape, name
        values[name] = jnp.asarray(row.layout.to_flax(tensors[row.torch_name]), parameters[name].dtype)
    return svdjax.models.svd.fill(model, values)


def drawn(cls: type[Model], config: Any, dtype: Any, param_dtype: Any = None, seed: int = SEED) -> Model:
    """A model with the weights of `weight`: faster than its initialisers, and with more varied attention maps."""
    model = abstract(cls, config, dtype, param_dtype)
    tag = TAGS[next(name for name, network in svdjax.models.svd.NETWORKS.items() if network is cls)]
    rows = table({name: leaf.shape for name, leaf in svdjax.models.svd.leaves(model).items()})
    return fill(model, {row.torch_name: weight(tag, row.torch_name, row.torch_shape, seed) for row in rows.values()})


@functools.cache
def svd() -> svdjax.models.svd.SVD:
    """A, without backward weights."""
    networks = svdjax.models.svd.NETWORKS
    configs = SVDConfig(**{name: from_pytorch(name, config(name)) for name in networks})
    filled: dict[str, Any] = {
        name: fill(abstract(cls, getattr(configs, name), jnp.float32), weights(name)) for name, cls in networks.items()
    }
    return svdjax.models.svd.SVD(config=configs, **filled, backward=None)


def call(model: nnx.Module, method: str, *args: Any, **static: Any) -> Any:
    """`model.method(*args, **static)`, compiled."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, *args: getattr(nnx.merge(graph, state), method)(*args, **static))(state, *args)


def channels_last(x: np.ndarray) -> np.ndarray:
    """PyTorch's (..., c, h, w) -> (..., h, w, c)."""
    return np.moveaxis(x, -3, -1)


def relative(actual: Any, expected: Any) -> float:
    """L2 distance relative to the norm of `expected`, in float64. The shapes must be equal."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def keyframe(number: int) -> np.ndarray:
    """Keyframe 1 or 2 of the recorded runs: (128, 192, 3) uint8, the size of the video."""
    return iio.imread(DATA / f"frame{number}.png")


@functools.cache
def keyframe_stages() -> Mapping[str, np.ndarray]:
    """Recorded outputs of the stages before and after the sampler (resize, CLIP, VAE), with PyTorch's axes."""
    with np.load(DATA / "keyframe_stages.npz") as data:
        return dict(data)
