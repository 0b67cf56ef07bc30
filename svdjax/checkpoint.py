"""The checkpoints: a folder of one Orbax tree a network, each a flat mapping of dotted names, and a `config.json`.

    OUT/config.json, OUT/unet/, OUT/vae/, OUT/image_encoder/ and, where there are backward weights, OUT/backward/

Backward weights alone, as training writes them, are another folder: `svdjax.delta`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from svdjax import delta
from svdjax.blocking import stats_dtype
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.initialize import abstract
from svdjax.manifest import MODEL, is_of, read_manifest, write_manifest
from svdjax.model import NETWORKS, SVD, fill, leaves
from svdjax.orbax_trees import Shardings, restore_tree, tree_shapes
from svdjax.overlay import check_overlay


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
        backward: a folder of backward weights (`svdjax.delta`) that replace the checkpoint's own. They are added to this
            model's UNet, so they may have been trained from another one of the same shapes, or of another num_frames.
        shardings: where each tensor goes, from its shape and its name, such as `unet.conv_in.kernel` or
            `backward.mid_block.[...].attn1.to_v.kernel`; the default device if left out.

    Raises:
        InputError: not such a checkpoint, parts that are missing or damaged, a newer format, or backward weights of
            another UNet.
    """
    path = Path(path)
    info = read_info(path)

    def within(part: str) -> Shardings | None:
        return None if shardings is None else lambda name, shape: shardings(f"{part}.{name}", shape)

    dtype = jnp.dtype(info.dtype if dtype is None else dtype)
    networks = {}
    for name, cls in NETWORKS.items():
        used = stats_dtype(dtype) if name == "vae" and info.config.vae.force_upcast else dtype
        network = abstract(cls, getattr(info.config, name), used)
        networks[name] = (network, leaves(network))
    unet = networks["unet"][1]
    own = path / "backward" if backward is None and info.backward is not None else None
    expected = {}
    if backward is not None:  # checked before the gigabytes are read
        delta.check(Path(backward), unet)
    elif own is not None:
        found = tree_shapes(own)
        check_overlay(found, unet, str(own))
        expected = {name: unet[name] for name in found}
    filled = {
        name: fill(network, restore_tree(path / name, values, within(name))) for name, (network, values) in networks.items()
    }
    overlay = None
    if backward is not None:
        overlay = delta.restore(Path(backward), path / "unet", dtype, within("backward"))
    elif own is not None:
        overlay = restore_tree(own, expected, within("backward"))
    return SVD(info.config, **filled, backward=overlay)


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
