"""The checkpoints: a folder of one Orbax tree a network, each a flat mapping of dotted names, and a `config.json`.

    OUT/config.json, OUT/unet/, OUT/vae/, OUT/image_encoder/ and, where there are backward weights, OUT/backward/

Backward weights alone, as training writes them, are another folder: `svdjax.checkpoints.delta`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from svdjax.checkpoints import delta
from svdjax.checkpoints.manifest import MODEL, is_of, read_manifest, write_manifest
from svdjax.checkpoints.orbax_trees import Shardings, digest, restore_tree, save_tree, tree_shapes
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.memory.blocking import stats_dtype
from svdjax.models.backward import check_overlay
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, SVD, fill, leaves
from svdjax.models.unet import UNet
from svdjax.runtime.atomic import new_folder


@dataclass(frozen=True)
class Info:
    """What `config.json` says besides format and version.

    Attributes:
        config: the model's configuration.
        dtype: name of the dtype that is stored.
        backward: what the backward weights are and come from, or None without them; `trained` lists the kinds of tensors.
        sources: SHA-256 of the files that it was made from, by path.
    """

    config: SVDConfig
    dtype: str
    backward: dict[str, Any] | None = None
    sources: dict[str, str] = field(default_factory=dict)


def load(path: str | Path, *, dtype: Any = None, backward: str | Path | None = None, shardings: Shardings | None = None) -> SVD:
    """Load a checkpoint that `convert.svd_to_flax` wrote.

    Args:
        path: its folder.
        dtype: of computation and parameters; None is the stored dtype. The VAE is at least float32 where its
            configuration says `force_upcast`, as SVD's does.
        backward: a folder of backward weights (`svdjax.checkpoints.delta`) that replace the checkpoint's own. They are
            added to this model's UNet, so they may have been trained from another one of the same shapes, or of another
            num_frames.
        shardings: where each tensor goes, from its shape and its name, such as `unet.conv_in.kernel` or
            `backward.mid_block.[...].attn1.to_v.kernel`; the default device if left out.

    Raises:
        InputError: not such a checkpoint, parts that are missing or damaged, a newer format, or backward weights of
            another UNet.
    """
    path = Path(path)
    info = read_info(path)
    dtype = jnp.dtype(info.dtype if dtype is None else dtype)
    unet = leaves(abstract(UNet, info.config.unet, dtype))
    own = path / "backward" if backward is None and info.backward is not None else None
    expected = {}
    if backward is not None:  # checked before the gigabytes are read
        delta.check(Path(backward), unet)
    elif own is not None:
        found = tree_shapes(own)
        check_overlay(found, unet, str(own))
        expected = {name: unet[name] for name in found}
    networks = {name: load_network(path, info.config, name, dtype, shardings) for name in NETWORKS}
    overlay = None
    if backward is not None:
        overlay = delta.restore(Path(backward), path / "unet", dtype, _within("backward", shardings))
    elif own is not None:
        overlay = restore_tree(own, expected, _within("backward", shardings))
    return SVD(info.config, **networks, backward=overlay)


def load_network(path: Path, config: SVDConfig, name: str, dtype: Any, shardings: Shardings | None = None) -> Any:
    """One network of a checkpoint.

    Args:
        path: the checkpoint's folder.
        config: what `read_info` says of it.
        name: a key of `svdjax.models.svd.NETWORKS`.
        dtype, shardings: as of `load`.
    """
    used = stats_dtype(jnp.dtype(dtype)) if name == "vae" and config.vae.force_upcast else dtype
    network = abstract(NETWORKS[name], getattr(config, name), used)
    return fill(network, restore_tree(path / name, leaves(network), _within(name, shardings)))


def _within(part: str, shardings: Shardings | None) -> Shardings | None:
    return None if shardings is None else lambda name, shape: shardings(f"{part}.{name}", shape)


def save(path: str | Path, config: SVDConfig, networks: Mapping[str, Mapping[str, Any]], *, overwrite: bool = False) -> None:
    """Write a checkpoint without backward weights, in float32.

    With several hosts the first process alone calls this, with arrays that it can read whole.

    Args:
        path: the folder to make.
        config: of the model.
        networks: the tensors of each of `svdjax.models.svd.NETWORKS`, by dotted name.
        overwrite: whether a checkpoint at `path` is replaced, once the new one is whole.

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
    """Whether a folder is a checkpoint of a model, of any version."""
    return is_of(path, MODEL)


def write_info(folder: Path, info: Info) -> None:
    """Write `config.json`, the last file of a new checkpoint."""
    write_manifest(folder, MODEL, dataclasses.asdict(info))


def read_info(path: Path) -> Info:
    """What the `config.json` of a checkpoint says.

    Raises:
        InputError: not a checkpoint, a newer one, or one with damaged or missing files.
    """
    data = read_manifest(path, MODEL)
    try:
        config = SVDConfig.from_json(data["config"])
        jnp.dtype(data["dtype"])
        return Info(config, data["dtype"], data["backward"], data["sources"])
    except (KeyError, TypeError, AttributeError, InputError) as e:
        raise InputError(f"{path / 'config.json'}: is damaged: {type(e).__name__} {e}") from None
