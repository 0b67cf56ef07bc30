"""Backward weights of training: differences from the UNet that training started from.

    OUT/config.json, OUT/delta/

or one file (`svdjax.checkpoints.backward_file`). Every function that reads takes either.

Added to that UNet, they give the trained tensors. Added to another UNet of the same shapes, such as SVD-XT's after
training from SVD, they are the paper's transfer: v/o_XT + (v/o_tuned - v/o_SVD).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.checkpoints import backward_file
from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.manifest import BACKWARD, check_backward_info, has_format, read_manifest, write_manifest
from svdjax.checkpoints.orbax_trees import Shardings, digest, in_host_memory, restore_tree, save_tree, tree_shapes
from svdjax.devices.placing import put
from svdjax.errors import InputError
from svdjax.models.backward import QUERIES, VALUES, check_backward_tensors, names_of_kinds, tensor_kind, trained_kinds
from svdjax.runtime.atomic import new_folder


def base_tensors(model: Path, kinds: Collection[str] = VALUES, sharding: Shardings | None = None) -> dict[str, Array]:
    """Read the temporal self-attention tensors of a checkpoint's UNet in float32, for the start of training.

    The tensors of a loaded model may be rounded to its compute dtype.

    Args:
        model: the folder of a checkpoint that `svdjax.checkpoints.checkpoint.read_info` has checked.
        kinds: kinds of tensors, from `svdjax.models.backward.VALUES` and `QUERIES`.
        sharding: see `svdjax.checkpoints.orbax_trees.restore_tree`.
    """
    shapes = tree_shapes(model / "unet")
    expected = {name: jax.ShapeDtypeStruct(shapes[name].shape, np.float32) for name in names_of_kinds(shapes, kinds)}
    return restore_tree(model / "unet", expected, sharding, partial=True)


def save_backward(
    path: str | Path,
    values: Mapping[str, Any],
    base: Mapping[str, Any],
    info: Mapping[str, Any],
    *,
    dtype: str = "float16",
    overwrite: bool = False,
) -> None:
    """Write a folder of backward weights, for `svdjax.load(..., backward=path)`.

    In a run of several processes only process 0 calls this (`jax.process_index() == 0`), with fully addressable arrays.
    It doesn't wait for other processes.

    Args:
        path: the folder to create.
        values: the trained tensors by dotted name, float32: all tensors of each trained kind (`svdjax.models.backward`).
        base: the UNet's own tensors before training, from `base_tensors`: those of `VALUES`, and those of `QUERIES` if
            queries or keys were trained. Tensors that are not in `values` get a difference of zero.
        info: values that are serializable as JSON, stored under `backward`. `sources`, the hashes of the model before training
            (`svdjax.checkpoints.checkpoint.Info.sources`), identify the UNet to readers.
        dtype: dtype of the stored differences. Float16 rounds a difference by at most 1/2048 of itself.
        overwrite: whether to replace backward weights at `path`.

    Raises:
        InputError: names or shapes that differ from those of `base`, differences that are not finite or beyond the range of
            `dtype`, or a `path` that exists or can't be written.
    """
    kinds = trained_kinds(values)
    all_kinds = VALUES + (QUERIES if set(kinds) & set(QUERIES) else ())
    unchanged = [name for name in names_of_kinds(base, all_kinds) if tensor_kind(name) not in kinds]
    check_backward_tensors({**values, **{name: base[name] for name in unchanged}}, base, f"{path}: the values to save")
    differences = {name: _difference(name, values[name], base[name], dtype, path) for name in values}
    differences |= {name: np.zeros(base[name].shape, dtype) for name in unchanged}
    with new_folder(Path(path), overwrite=overwrite, ours=lambda old: has_format(old, BACKWARD)) as folder:
        save_tree(folder / "delta", differences)
        write_manifest(folder, BACKWARD, {"dtype": dtype, "backward": {**info, "trained": kinds}})


def _difference(name: str, value: Any, base: Any, dtype: str, path: str | Path) -> np.ndarray:
    difference = np.asarray(value, np.float32) - np.asarray(base, np.float32)
    bad = difference.size - np.count_nonzero(np.isfinite(difference))
    if bad:
        raise InputError(f"{path}: {name} differs from its base by {bad:,} NaN or infinite values of {difference.size:,}")
    return cast_finite(difference, dtype, f"{path}: the difference of {name} from its base")


def read_backward_info(path: Path) -> dict[str, Any]:
    """Read the `info` that `save_backward` stored, with the kinds of tensors that were trained under `trained`.

    Raises:
        InputError: no backward weights, another format version, or damaged or missing files.
    """
    if backward_file.is_file(path):
        return backward_file.read_info(path)
    info = read_manifest(path, BACKWARD).get("backward")
    try:
        return check_backward_info(info)
    except InputError as e:
        raise InputError(f"{path / 'config.json'}: is damaged: {e}") from None


def content(path: Path) -> list[Any]:
    """Identity of backward weights, to compare them: the result of `read_backward_info` and a SHA-256 of the tensors.

    It reads the tensors, tens of megabytes for SVD. For errors see `read_backward_info` and `restore`.
    """
    info = read_backward_info(path)
    stored = backward_file.read(path) if backward_file.is_file(path) else restore_tree(path / "delta", stored_shapes(path))
    return [info, digest(stored)]


def holds_differences(path: Path) -> bool:
    """Whether a path is a folder or a file of backward weights, of any format version."""
    return backward_file.is_file(path) or has_format(path, BACKWARD)


def stored_shapes(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the stored tensors by dotted name; `InputError` if they are damaged."""
    return backward_file.shapes(path) if backward_file.is_file(path) else tree_shapes(path / "delta")


def read_differences(path: Path, sharding: Shardings | None = in_host_memory) -> dict[str, Any]:
    """The differences in float32 by dotted name; for `sharding` see `svdjax.checkpoints.orbax_trees.restore_tree`."""
    if not backward_file.is_file(path):
        shapes = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in stored_shapes(path).items()}
        return restore_tree(path / "delta", shapes, sharding)
    values = {name: value.astype(np.float32) for name, value in backward_file.read(path).items()}
    if sharding is None:
        return {name: jnp.asarray(value) for name, value in values.items()}
    places = {name: sharding(name, value.shape) for name, value in values.items()}
    return {name: value if (place := places[name]) is None else put(value, place) for name, value in values.items()}


def transfer_note(path: Path, sources: Mapping[str, str]) -> str | None:
    """One line for the user if, by the hashes, backward weights were trained from another UNet; otherwise None.

    Args:
        path: the folder of backward weights.
        sources: the `sources` of the model that they are used with (`svdjax.checkpoints.checkpoint.Info`).

    Raises:
        InputError: see `read_backward_info`.
    """
    trained_from, used_with = _unet_hashes(read_backward_info(path).get("sources") or {}), _unet_hashes(sources)
    known = trained_from and ("unet" in trained_from) == ("unet" in used_with)  # hashes of files tell nothing about tensors
    if not known or trained_from == used_with:
        return None
    return f"{path}: trained from another UNet than the model's: transferred as a difference"


def _unet_hashes(sources: Mapping[str, str]) -> dict[str, str]:
    """The hashes of a UNet's weights: of its files, or of its tensors under `unet` (see `checkpoint.Info`)."""
    return {
        name: digest
        for name, digest in sources.items()
        if name == "unet" or (name.startswith("unet/") and name.endswith(".safetensors"))
    }


def check_backward_folder(path: Path, unet: Mapping[str, Any]) -> None:
    """Check that backward weights fit a UNet; only their names and shapes are read.

    Args:
        path: the folder or file of backward weights.
        unet: the UNet's tensors by dotted name; anything with a `shape`.

    Raises:
        InputError: no backward weights, damaged, or other names or shapes than the UNet's.
    """
    read_backward_info(path)
    check_backward_tensors(stored_shapes(path), unet, str(path if backward_file.is_file(path) else path / "delta"))


def restore(path: Path, unet_tree: Path, dtype: Any, sharding: Shardings | None = None) -> dict[str, Array]:
    """Read backward weights for a UNet: its stored tensors plus the differences in float32, then cast.

    Args:
        path: a folder or file that `check_backward_folder` has checked.
        unet_tree: the UNet's tree on disk; only the tensors needed are read.
        dtype: dtype of the result.
        sharding: see `svdjax.checkpoints.orbax_trees.restore_tree`.
    """
    shapes = stored_shapes(path)
    expected = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in shapes.items()}
    base = restore_tree(unet_tree, expected, sharding, partial=True)
    difference = read_differences(path, sharding)
    if any(isinstance(value, np.ndarray) for value in base.values()):  # they stay in host memory
        return _sum(base, difference, jnp.dtype(dtype))
    shardings = {name: value.sharding for name, value in base.items()}
    return jax.jit(_sum, static_argnames=("dtype",), out_shardings=shardings)(base, difference, dtype=jnp.dtype(dtype))


def _sum(base: dict[str, Array], difference: dict[str, Array], dtype: jnp.dtype) -> dict[str, Array]:
    return {name: (value + difference[name]).astype(dtype) for name, value in base.items()}
