"""A small random SVD in one file in Stability's original layout, with the names and shapes of Stability's own modules.

`data/original_layout.npz` was recorded once with the modules of Stability's generative-models and OpenCLIP:

- `full`: name and shape of every tensor of SVD-XT; `tiny`: the same for the small model, widths (32, 64);
- `unet`, `encoder`, `decoder`, `vision`: outputs of the small model's modules, with the weights of `weight`;
- `script`: shapes and checksums of its UNet and VAE in diffusers layout, by diffusers' script convert_svd_to_diffusers.py.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goldens
import numpy as np
from safetensors.numpy import save_file

DATA = Path(__file__).parents[1] / "data" / "original_layout.npz"
Tensors = dict[str, np.ndarray]


@functools.cache
def recorded() -> dict[str, np.ndarray]:
    with np.load(DATA) as data:
        return dict(data)


def text(name: str) -> Any:
    """A recorded JSON text."""
    return json.loads(recorded()[name].tobytes())


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the recorded outputs."""
    z = goldens.draw(name, shape)
    leaf = name.rpartition(".")[2]
    if leaf == "mix_factor" or (".visual." not in name and "open_clip" in name):
        return z
    if z.ndim == 1:
        return np.float32(leaf == "weight") + np.float32(0.2) * z
    if "embedding" in leaf:
        return np.float32(0.5) * z
    return z / np.float32(math.sqrt(math.prod(z.shape[1:])))


@functools.cache
def tensors() -> Tensors:
    """All tensors of the small model; not to be changed."""
    return {name: weight(name, tuple(shape)) for name, shape in text("tiny").items()}


def write(path: Path, change: Callable[[Tensors], Any] = lambda tensors: None, **metadata: str) -> Path:
    """Write the small model, after a change of its tensors."""
    values = dict(tensors())
    change(values)
    save_file({name: np.ascontiguousarray(value) for name, value in values.items()}, path, metadata or None)
    return path


def as_comfyui(values: Tensors) -> None:
    """Change the tensors to those that ComfyUI saves: transformers' names after OpenCLIP's prefix, one encoder, no text."""
    visual = "conditioner.embedders.0.open_clip.model.visual."
    found = {name.removeprefix(visual): values.pop(name) for name in list(values) if name.startswith("conditioner.")}
    put: Callable[[str, np.ndarray], None] = lambda name, value: values.__setitem__(visual + name, value)  # noqa: E731
    put("visual_projection.weight", found["proj"].T)
    put("vision_model.embeddings.class_embedding", found["class_embedding"])
    put("vision_model.embeddings.position_embedding.weight", found["positional_embedding"])
    put("vision_model.embeddings.patch_embedding.weight", found["conv1.weight"])
    for leaf in ("weight", "bias"):
        put(f"vision_model.pre_layrnorm.{leaf}", found[f"ln_pre.{leaf}"])
        put(f"vision_model.post_layernorm.{leaf}", found[f"ln_post.{leaf}"])
        for layer in range(2):
            theirs, ours = f"transformer.resblocks.{layer}", f"vision_model.encoder.layers.{layer}"
            put(f"{ours}.layer_norm1.{leaf}", found[f"{theirs}.ln_1.{leaf}"])
            put(f"{ours}.layer_norm2.{leaf}", found[f"{theirs}.ln_2.{leaf}"])
            put(f"{ours}.mlp.fc1.{leaf}", found[f"{theirs}.mlp.c_fc.{leaf}"])
            put(f"{ours}.mlp.fc2.{leaf}", found[f"{theirs}.mlp.c_proj.{leaf}"])
            put(f"{ours}.self_attn.out_proj.{leaf}", found[f"{theirs}.attn.out_proj.{leaf}"])
            for part, fused in zip("qkv", np.split(found[f"{theirs}.attn.in_proj_{leaf}"], 3), strict=True):
                put(f"{ours}.self_attn.{part}_proj.{leaf}", fused)
