"""The reference model "A": a random tiny SVD whose weights and inputs are drawn from names, and outputs recorded in PyTorch.

`data/A` holds its configuration files, its two keyframes and arrays that the official PyTorch code produced. Weights and
most inputs are not stored: each is a function of a seed and of its own name.
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
from svdjax.models.initialize import abstract

DATA = Path(__file__).parents[1] / "data" / "A"
SEED = 101
TAGS = {"unet": "unet", "vae": "vae", "image_encoder": "clip"}  # what the draws call each component
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "image_encoder": "image_encoder/model.safetensors",
}
TRAINED = (".temporal_transformer_blocks.0.attn1.to_v.", ".temporal_transformer_blocks.0.attn1.to_out.0.")

Tensors = dict[str, np.ndarray]


def draw(name: str, shape: Iterable[int], seed: int = SEED) -> np.ndarray:
    """The standard normal float32 array that belongs to a name."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(tuple(shape), dtype=np.float32)


def weight(tag: str, name: str, shape: Iterable[int], seed: int = SEED) -> np.ndarray:
    """A parameter by its PyTorch name: scaled so that activations and attention maps stay lively at any depth."""
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
    """The PyTorch module of a configuration file, on the device of the surrounding `torch.device` context."""
    if component == "image_encoder":
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config)).eval()
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    cls = {"unet": UNetSpatioTemporalConditionModel, "vae": AutoencoderKLTemporalDecoder}[component]
    return cls.from_config(dict(config)).eval()


def torch_weights(component: str, config: Mapping[str, Any], seed: int = SEED) -> Tensors:
    """The tensors that a PyTorch module of this configuration has, by name, drawn."""
    import torch

    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in torch_model(component, config).state_dict().items()}
    return {name: weight(TAGS[component], name, shape, seed) for name, shape in shapes.items()}


def config(component: str) -> dict[str, Any]:
    """The configuration file of one of A's components."""
    return json.loads((DATA / "model" / component / "config.json").read_text())


def _representable_in_16_bits(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


@functools.cache
def weights(component: str) -> Tensors:
    """A's weights of a component, by PyTorch name; float32 whose values a float16 variant holds too."""
    return {name: _representable_in_16_bits(x) for name, x in torch_weights(component, config(component)).items()}


def backward_weights() -> Tensors:
    """The UNet of A whose temporal values and output projections (biases too) were moved by a random delta."""
    out = dict(weights("unet"))
    for name, x in out.items():
        if any(part in name for part in TRAINED):
            scale = 0.2 if x.ndim == 1 else 0.7 / math.sqrt(x.shape[1])
            out[name] = _representable_in_16_bits(x + np.float32(scale) * draw(f"delta:{name}", x.shape))
    return out


def write_model(folder: Path) -> None:
    """A in diffusers' layout: `folder/model`, and the backward UNet in `folder/backward`."""
    shutil.copytree(DATA / "model", folder / "model")
    shutil.copytree(DATA / "backward", folder / "backward")
    for component, file in FILES.items():
        save_file(weights(component), folder / "model" / file, {"format": "pt"})
    save_file(backward_weights(), folder / "backward" / FILES["unet"], {"format": "pt"})


def fill(model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> nnx.Module:
    """A model, abstract or not, with PyTorch's tensors in it: every tensor once, every leaf filled, in the leaf's dtype."""
    found = svdjax.models.svd.leaves(model)
    rows = table({name: leaf.shape for name, leaf in found.items()})
    assert sorted(row.torch_name for row in rows.values()) == sorted(tensors)
    values = {}
    for name, row in rows.items():
        assert row.torch_shape == tensors[row.torch_name].shape, name
        values[name] = jnp.asarray(row.layout.to_flax(tensors[row.torch_name]), found[name].dtype)
    return svdjax.models.svd.fill(model, values)


def drawn(cls: type[nnx.Module], config: Any, dtype: Any, param_dtype: Any = None, seed: int = SEED) -> nnx.Module:
    """One of our models with drawn weights, without a PyTorch one; quicker than its initialisers, and livelier."""
    model = abstract(cls, config, dtype, param_dtype)
    tag = TAGS[next(name for name, network in svdjax.models.svd.NETWORKS.items() if network is cls)]
    rows = table({name: leaf.shape for name, leaf in svdjax.models.svd.leaves(model).items()})
    return fill(model, {row.torch_name: weight(tag, row.torch_name, row.torch_shape, seed) for row in rows.values()})


@functools.cache
def svd() -> svdjax.models.svd.SVD:
    """A, without backward weights."""
    networks = svdjax.models.svd.NETWORKS
    configs = SVDConfig(**{name: from_pytorch(name, config(name)) for name in networks})
    filled = {name: fill(abstract(cls, getattr(configs, name), jnp.float32), weights(name)) for name, cls in networks.items()}
    return svdjax.models.svd.SVD(configs, **filled, backward=None)


def call(model: nnx.Module, method: str, *args: Any, **static: Any) -> Any:
    """`model.method(*args, **static)`, compiled."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, *args: getattr(nnx.merge(graph, state), method)(*args, **static))(state, *args)


def channels_last(x: np.ndarray) -> np.ndarray:
    """PyTorch's (..., c, h, w) -> (..., h, w, c)."""
    return np.moveaxis(x, -3, -1)


def relative(actual: Any, expected: Any) -> float:
    """L2 distance relative to what is expected, in float64; a difference of shapes fails."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def keyframe(number: int) -> np.ndarray:
    """Keyframe 1 or 2 of the recorded runs: (128, 192, 3) uint8, already at the size of the video."""
    return iio.imread(DATA / f"frame{number}.png")


@functools.cache
def keyframe_stages() -> Mapping[str, np.ndarray]:
    """Recorded outputs of the stages before and after the sampler: resize, CLIP, VAE. PyTorch's axes."""
    with np.load(DATA / "keyframe_stages.npz") as data:
        return dict(data)
