"""Checkpoints of whole models: a folder with `config.json` and one Orbax tree per network.

    OUT/config.json, OUT/unet/, OUT/vae/, OUT/image_encoder/ and, with backward weights, OUT/backward/

Each tree maps dotted names to arrays. Training writes backward weights to a separate folder: `svdjax.checkpoints.delta`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.checkpoints import delta
from svdjax.checkpoints.manifest import MODEL, check_backward_info, check_sources, has_format, read_manifest, write_manifest
from svdjax.checkpoints.orbax_trees import Shardings, digest, restore_tree, save_tree, tree_shapes
from svdjax.config import SVDConfig
from svdjax.errors import InputError, one_line
from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import check_backward_tensors
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, SVD, fill, leaves
from svdjax.models.unet import UNet
from svdjax.runtime.atomic import new_folder
from svdjax.runtime.dtypes import DTYPES


@dataclass(frozen=True)
class Info:
    """The contents of `config.json` besides format and version.

    Attributes:
        config: the model's configuration.
        dtype: name of the stored dtype.
        backward: origin of the backward weights, with the kinds of tensors under `trained`; None without backward weights.
        sources: SHA-256 of the files that the checkpoint was converted from, by path; or, for a model trained with svdjax or
            converted from a single file, a hash of each network's tensors, by network.
    """

    config: SVDConfig
    dtype: str
    backward: dict[str, Any] | None = None
    sources: dict[str, str] = field(default_factory=dict)


def load(path: str | Path, *, dtype: Any = None, backward: str | Path | None = None, shardings: Shardings | None = None) -> SVD:
    """Load a checkpoint.

    Args:
        path: a folder that `convert.svd_to_flax` or `train.base` wrote.
        dtype: dtype of computation and parameters; None is the stored dtype. The VAE has at least float32 if its configuration
            sets `force_upcast`, as SVD's does.
        backward: backward weights (`svdjax.checkpoints.delta`) to use instead of the checkpoint's own. They are
            differences that are added to this model's UNet, so they may come from another UNet of the same shapes, also with
            another num_frames.
        shardings: see `svdjax.load`.

    Raises:
        InputError: not a checkpoint, missing or damaged parts, another format version, or backward weights that don't fit.
    """
    path = Path(path)
    info = read_info(path)
    dtype = jnp.dtype(info.dtype if dtype is None else dtype)
    unet = leaves(abstract(UNet, info.config.unet, dtype))
    own = path / "backward" if info.backward is not None else None
    # Check backward weights before reading gigabytes of networks; read them after the networks.
    read_backward: Callable[[Shardings | None], dict[str, Array]] | None = None
    if backward is not None:
        delta.check_backward_folder(Path(backward), unet)
        read_backward = partial(delta.restore, Path(backward), path / "unet", dtype)
    elif own is not None:
        stored = tree_shapes(own)
        check_backward_tensors(stored, unet, str(own))
        read_backward = partial(restore_tree, own, {name: unet[name] for name in stored})
    networks = {name: load_network(path, info.config, name, dtype, shardings) for name in NETWORKS}
    overlay = None if read_backward is None else read_backward(_with_prefix("backward", shardings))
    return SVD(config=info.config, **networks, backward=overlay)


def load_network(path: Path, config: SVDConfig, name: str, dtype: Any, shardings: Shardings | None = None) -> Any:
    """Load one network of a checkpoint.

    Args:
        path: the checkpoint's folder.
        config: its configuration, from `read_info`.
        name: a key of `svdjax.models.svd.NETWORKS`.
        dtype: see `load`.
        shardings: see `load`.
    """
    network = abstract(NETWORKS[name], getattr(config, name), network_dtype(config, name, dtype))
    return fill(network, restore_tree(path / name, leaves(network), _with_prefix(name, shardings)))


def network_dtype(config: SVDConfig, name: str, dtype: Any) -> Any:
    """Dtype of the network `name`, a key of `NETWORKS`, in a model of `dtype`: the VAE may need at least float32."""
    return stats_dtype(jnp.dtype(dtype)) if name == "vae" and config.vae.force_upcast else dtype


def _with_prefix(part: str, shardings: Shardings | None) -> Shardings | None:
    """Shardings of one part of a model, for tensor names without the name of the part."""
    return None if shardings is None else lambda name, shape: shardings(f"{part}.{name}", shape)


def save(path: str | Path, config: SVDConfig, networks: Mapping[str, Mapping[str, Any]], *, overwrite: bool = False) -> None:
    """Write a checkpoint without backward weights, in float32.

    In a run of several processes only process 0 calls this, with fully addressable arrays.

    Args:
        path: the folder to create.
        config: the model's configuration.
        networks: for each of `svdjax.models.svd.NETWORKS`, its tensors by dotted name.
        overwrite: whether to replace a checkpoint at `path` when the new one is complete.

    Raises:
        InputError: the folder exists, or can't be written.
    """
    hashes = {}
    with new_folder(Path(path), overwrite=overwrite, ours=is_model) as folder:
        for name in NETWORKS:
            tensors = {leaf: np.asarray(value, np.float32) for leaf, value in networks[name].items()}
            save_tree(folder / name, tensors)
            hashes[name] = digest(tensors)
        write_info(folder, Info(config, "float32", None, hashes))


def is_model(path: Path) -> bool:
    """Whether a folder is a checkpoint of a whole model, of any format version."""
    return has_format(path, MODEL)


def write_info(folder: Path, info: Info) -> None:
    """Write the `config.json` of a checkpoint, after all its other files."""
    write_manifest(folder, MODEL, dataclasses.asdict(info))


def read_info(path: Path) -> Info:
    """Read the `config.json` of a checkpoint.

    Raises:
        InputError: not a checkpoint, another format version, or damaged or missing files.
    """
    data = read_manifest(path, MODEL)
    try:
        config = SVDConfig.from_json(data["config"])
        if data["dtype"] not in DTYPES:
            raise InputError(f"dtype is {one_line(repr(data['dtype']), 80)}, expected one of {', '.join(DTYPES)}")
        if data["backward"] is not None:
            check_backward_info(data["backward"])
        return Info(config, data["dtype"], data["backward"], check_sources(data["sources"]))
    except InputError as e:
        raise InputError(f"{path / 'config.json'}: is damaged: {e}") from None
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path / 'config.json'}: is damaged: {type(e).__name__} {one_line(e, 200)}") from None
