"""Load a model from PyTorch's files, without writing a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from svdjax.checkpoints import delta
from svdjax.checkpoints.checkpoint import network_dtype
from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.checkpoints.safetensors_reader import Weights
from svdjax.devices.placing import put
from svdjax.diffusers_layout.backward_weights import open_tuned, read_overlay
from svdjax.diffusers_layout.importing import network_arrays
from svdjax.diffusers_layout.model_folder import Model, name_tables
from svdjax.diffusers_layout.name_table import TensorRow
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, SVD, fill

STORED = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # dtype to load, by safetensors' dtype name


def stored_dtype(model: Model) -> str:
    """The dtype to load by default, that of the UNet's stored weights; float32 for float64. `name_tables` has checked them."""
    return STORED[next(iter(model.weights["unet"].tensors.values())).dtype]


def load_folder(
    model: Model,
    *,
    dtype: Any = None,
    backward: Path | None = None,
    backward_base: Path | None = None,
    shardings: Shardings | None = None,
) -> SVD:
    """Read the networks of an opened model, one tensor at a time.

    Args:
        model: from `svdjax.diffusers_layout.model_folder.open_model` or `svdjax.original_layout.single_file.open_file`.
        dtype: dtype of computation and parameters; None is the stored dtype. The VAE has at least float32 if its configuration
            sets `force_upcast`.
        backward: backward weights: what `svdjax.checkpoints.delta` reads, or a fine-tuned UNet in diffusers layout.
        backward_base: the UNet in diffusers layout that `backward` was fine-tuned from, if it is not this model's.
        shardings: see `svdjax.load`.

    Raises:
        InputError: files that don't fit the configuration or can't be read, or backward weights that don't fit the UNet.
    """
    tables = name_tables(model)
    dtype = jnp.dtype(stored_dtype(model) if dtype is None else dtype)
    # checked before gigabytes of networks are read
    read_backward = None if backward is None else _open_backward(model, backward, backward_base, tables["unet"])
    with tqdm(total=sum(w.nbytes for w in model.weights.values()), unit="B", unit_scale=True, disable=None, leave=False) as bar:
        bar.set_description("reading the model")
        networks = {name: _network(model, name, tables[name], dtype, shardings, bar.update) for name in NETWORKS}
    own = None
    if read_backward is not None:
        values = read_backward()
        own = {leaf: _place(f"backward.{leaf}", value.astype(dtype), shardings) for leaf, value in values.items()}
    return SVD(config=model.config, **networks, backward=own)


def _network(
    model: Model,
    name: str,
    rows: Mapping[str, TensorRow],
    dtype: Any,
    shardings: Shardings | None,
    advance: Callable[[int], object],
) -> Any:
    used = network_dtype(model.config, name, dtype)
    placed = {
        leaf: _place(f"{name}.{leaf}", values, shardings)
        for leaf, values in network_arrays(model.weights[name], rows, used, advance)
    }
    return fill(abstract(NETWORKS[name], getattr(model.config, name), used), placed)


def _place(name: str, values: np.ndarray, shardings: Shardings | None) -> Any:
    if shardings is None:
        return jnp.asarray(values)
    sharding = shardings(name, values.shape)
    return values if sharding is None else put(values, sharding)


def _open_backward(
    model: Model, backward: Path, base: Path | None, rows: Mapping[str, TensorRow]
) -> Callable[[], dict[str, np.ndarray]]:
    """Open and check backward weights. Returns a function that reads them, in float32."""
    unet = model.weights["unet"]
    if delta.holds_differences(backward):
        delta.check_backward_folder(backward, rows)
        return lambda: {
            leaf: _read(unet, rows[leaf]) + difference for leaf, difference in delta.read_differences(backward).items()
        }
    tuned = open_tuned(backward, base, model.config.unet, rows)
    return lambda: read_overlay(tuned, unet, rows, lambda _: None).values


def _read(weights: Weights, row: TensorRow) -> np.ndarray:
    return row.layout.to_flax(weights.read(row.torch_name).astype(np.float32))
