"""Backward weights alone, as training writes them: how they differ from the UNet that they were trained from.

    OUT/config.json, OUT/delta/

Beside that UNet the difference gives the trained tensors again; beside another of the same shapes, such as SVD-XT's for SVD,
it is the paper's transfer: v/o_XT + (v/o_tuned - v/o_SVD).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.manifest import BACKWARD, is_of, read_manifest, write_manifest
from svdjax.checkpoints.orbax_trees import Shardings, digest, restore_tree, save_tree, tree_shapes
from svdjax.errors import InputError
from svdjax.models.backward import QUERIES, VALUES, check_overlay, expected_names, kind_of, trained_kinds
from svdjax.runtime.atomic import new_folder


def base_tensors(model: Path, kinds: Collection[str] = VALUES, sharding: Shardings | None = None) -> dict[str, Array]:
    """Tensors of the temporal self-attentions of a checkpoint's UNet in float32, as stored: what training starts from.

    The tensors of a loaded model may have been rounded to the dtype that it computes in; these have not.

    Args:
        model: the checkpoint's folder, known to be one (`svdjax.checkpoints.checkpoint.read_info`).
        kinds: of `svdjax.models.backward.VALUES` and `QUERIES`.
        sharding: where a tensor goes, from its name and shape; the default device if left out.
    """
    shapes = tree_shapes(model / "unet")
    expected = {name: jax.ShapeDtypeStruct(shapes[name].shape, np.float32) for name in expected_names(shapes, kinds)}
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
    """Write backward weights alone: what `svdjax.load(..., backward=path)` reads.

    With several hosts the first process alone calls this (`jax.process_index() == 0`), with arrays that it can read whole; it
    waits for no other.

    Args:
        path: the folder to make.
        values: the trained tensors by dotted name, float32: all of each kind that was trained (`svdjax.models.backward`).
        base: the UNet's own tensors that they were trained from, from `base_tensors`; at least those of `VALUES`, and of
            `QUERIES` if any of them were trained. Those that `values` lacks are stored as not changed.
        info: anything that JSON can hold, kept under `backward`. `sources`, the hashes of the model trained from
            (`svdjax.checkpoints.checkpoint.Info.sources`), tells a reader whether it is at hand.
        dtype: of the stored differences. Half a unit in the last place of float16 is 1/2048 of a difference.
        overwrite: whether backward weights at `path` are replaced.

    Raises:
        InputError: names or shapes that are not `base`'s, differences that are not finite or beyond the range of `dtype`,
            `path` exists or can't be written.
    """
    kinds = trained_kinds(values)
    complete = VALUES + (QUERIES if set(kinds) & set(QUERIES) else ())
    unchanged = [name for name in expected_names(base, complete) if kind_of(name) not in kinds]
    check_overlay({**values, **{name: base[name] for name in unchanged}}, base, f"{path}: the values to save")
    stored = {name: _difference(name, values[name], base[name], dtype, path) for name in values}
    stored |= {name: np.zeros(base[name].shape, dtype) for name in unchanged}
    with new_folder(Path(path), overwrite=overwrite, ours=lambda old: is_of(old, BACKWARD)) as folder:
        save_tree(folder / "delta", stored)
        write_manifest(folder, BACKWARD, {"dtype": dtype, "backward": {**info, "trained": kinds}})


def _difference(name: str, value: Any, base: Any, dtype: str, path: str | Path) -> np.ndarray:
    difference = np.asarray(value, np.float32) - np.asarray(base, np.float32)
    bad = difference.size - np.count_nonzero(np.isfinite(difference))
    if bad:
        raise InputError(f"{path}: {name} differs from its base by {bad:,} NaN or infinite values of {difference.size:,}")
    return cast_finite(difference, dtype, f"{path}: the difference of {name} from its base")


def read_backward_info(path: Path) -> dict[str, Any]:
    """What `save_backward` was told of backward weights, and under `trained` the kinds of tensors that were trained.

    Raises:
        InputError: not a folder of backward weights, another version, or one with damaged or missing files.
    """
    info = read_manifest(path, BACKWARD).get("backward")
    if not isinstance(info, dict):
        raise InputError(f"{path / 'config.json'}: is damaged: it says nothing about the backward weights")
    return info


def content(path: Path) -> list[Any]:
    """What tells backward weights from any others: what `read_backward_info` gives, and a SHA-256 of the tensors.

    The tensors are read, some tens of megabytes of SVD's. Errors as `read_backward_info` and `restore`.
    """
    info = read_backward_info(path)
    return [info, digest(restore_tree(path / "delta", tree_shapes(path / "delta")))]


def transfer_note(path: Path, sources: Mapping[str, str]) -> str | None:
    """One line for the user where backward weights were trained from another UNet, as far as the hashes of its files tell.

    Args:
        path: the backward weights.
        sources: the `sources` of the model that they are used with (`svdjax.checkpoints.checkpoint.Info`).

    Raises:
        InputError: as `read_backward_info`.
    """

    def unet(hashes: Mapping[str, str]) -> dict[str, str]:
        # files of a folder that was converted, or the whole tree of a model trained here
        files = {name for name in hashes if name.startswith("unet/") and name.endswith(".safetensors")}
        return {name: digest for name, digest in hashes.items() if name in files or name == "unet"}

    trained_from = unet(read_backward_info(path).get("sources") or {})
    if not trained_from or trained_from == unet(sources):
        return None
    return f"{path}: trained from another UNet than the model's: transferred as a difference"


def check(path: Path, unet: Mapping[str, Any]) -> None:
    """Hold backward weights against a UNet without reading them; `unet` holds its tensors by name, anything with `shape`.

    Raises:
        InputError: not backward weights, damaged ones, or those of a UNet of other shapes.
    """
    read_backward_info(path)
    check_overlay(tree_shapes(path / "delta"), unet, str(path / "delta"))


def restore(path: Path, unet_tree: Path, dtype: Any, sharding: Shardings | None = None) -> dict[str, Array]:
    """Backward weights for a UNet: its own tensors as stored, plus the differences, in float32; then cast.

    Args:
        path: a folder that `check` has passed.
        unet_tree: the UNet's own tensors on disk (`svdjax.checkpoints.orbax_trees`); only those needed are read.
        dtype: of the result.
        sharding: where a tensor goes, from its name and shape; the default device if left out.
    """
    shapes = tree_shapes(path / "delta")
    expected = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in shapes.items()}
    base = restore_tree(unet_tree, expected, sharding, partial=True)
    difference = restore_tree(path / "delta", expected, sharding)
    shardings = {name: value.sharding for name, value in base.items()}
    return jax.jit(_sum, static_argnames=("dtype",), out_shardings=shardings)(base, difference, dtype=jnp.dtype(dtype))


def _sum(base: dict[str, Array], difference: dict[str, Array], dtype: jnp.dtype) -> dict[str, Array]:
    return {name: (value + difference[name]).astype(dtype) for name, value in base.items()}
