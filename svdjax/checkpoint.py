"""The checkpoints: a folder of one Orbax tree a network, each a flat mapping of dotted names, and a `config.json`.

    OUT/config.json, OUT/unet/, OUT/vae/, OUT/image_encoder/ and, where there are backward weights, OUT/backward/

Backward weights alone, as training writes them, are a folder of `config.json` and `backward/`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from svdjax import __version__
from svdjax.atomic import new_folder
from svdjax.blocking import stats_dtype
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.initialize import abstract
from svdjax.model import NETWORKS, SVD, fill, leaves
from svdjax.orbax_trees import restore_tree, save_tree, tree_shapes
from svdjax.overlay import check_overlay, trained_kinds

MODEL = "svdjax-model"
BACKWARD = "svdjax-backward"
VERSION = 1  # of both formats; a reader refuses newer ones
_MADE_BY = {MODEL: "convert.svd_to_flax", BACKWARD: "train.backward"}

Shardings = Callable[[str], jax.sharding.Sharding]


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
        backward: a folder of backward weights that replace the checkpoint's own.
        shardings: where each tensor goes, from its name, such as `unet.conv_in.kernel` or
            `backward.mid_block.[...].attn1.to_v.kernel`; the default device if left out.

    Raises:
        InputError: not such a checkpoint, parts that are missing or damaged, a newer format, or backward weights of
            another UNet.
    """
    path = Path(path)
    info = read_info(path)
    overlay_folder = path / "backward" if info.backward is not None else None
    if backward is not None:
        _read_json(Path(backward), BACKWARD)
        overlay_folder = Path(backward) / "backward"

    def within(part: str) -> Shardings | None:
        return None if shardings is None else lambda name: shardings(f"{part}.{name}")

    dtype = jnp.dtype(info.dtype if dtype is None else dtype)
    networks = {}
    for name, cls in NETWORKS.items():
        used = stats_dtype(dtype) if name == "vae" and info.config.vae.force_upcast else dtype
        network = abstract(cls, getattr(info.config, name), used)
        networks[name] = (network, leaves(network))
    expected_overlay = {}
    if overlay_folder is not None:  # checked before the gigabytes are read
        found, unet = tree_shapes(overlay_folder), networks["unet"][1]
        check_overlay(found, unet, str(overlay_folder))
        expected_overlay = {name: unet[name] for name in found}
    filled = {
        name: fill(network, restore_tree(path / name, expected, within(name))) for name, (network, expected) in networks.items()
    }
    overlay = None if overlay_folder is None else restore_tree(overlay_folder, expected_overlay, within("backward"))
    return SVD(info.config, **filled, backward=overlay)


def save_backward(path: str | Path, overlay: Mapping[str, Any], info: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write backward weights alone: what `load(..., backward=path)` reads.

    Args:
        path: the folder to make.
        overlay: arrays by dotted name, complete for the UNet (`svdjax.overlay`).
        info: anything that JSON can hold, kept beside them under `backward`.
        overwrite: whether backward weights at `path` are replaced.

    Raises:
        InputError: `path` exists or can't be written.
    """
    with new_folder(Path(path), overwrite=overwrite, ours=lambda old: _is(old, BACKWARD)) as folder:
        save_tree(folder / "backward", overlay)
        _write_json(folder, BACKWARD, {"backward": {**info, "trained": trained_kinds(overlay)}})


def is_model(path: Path) -> bool:
    """Whether a folder is a checkpoint of a model, of any version."""
    return _is(path, MODEL)


def write_info(folder: Path, info: Info) -> None:
    """Write `config.json`, the last file of a new checkpoint."""
    _write_json(folder, MODEL, dataclasses.asdict(info))


def read_info(path: Path) -> Info:
    """What the `config.json` of a checkpoint says.

    Raises:
        InputError: not a checkpoint, a newer one, or one with damaged or missing files.
    """
    data = _read_json(path, MODEL)
    try:
        config = SVDConfig.from_json(data["config"])
        jnp.dtype(data["dtype"])
        return Info(config, data["dtype"], data["backward"], data["sources"])
    except (KeyError, TypeError, AttributeError, InputError) as e:
        raise InputError(f"{path / 'config.json'}: is damaged: {type(e).__name__} {e}") from None


def _is(path: Path, kind: str) -> bool:
    try:
        return json.loads((path / "config.json").read_bytes())["format"] == kind
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_json(folder: Path, kind: str, data: Mapping[str, Any]) -> None:
    """Write `config.json` with the sizes of all other files, by which incomplete copies are noticed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    data = {"format": kind, "version": VERSION, "svdjax": __version__, **data, "files": files}
    (folder / "config.json").write_text(json.dumps(data, indent=2) + "\n")


def _read_json(path: Path, kind: str) -> dict[str, Any]:
    """The `config.json` of a folder written here, whose files must all be there and of the size that they had."""
    file = path / "config.json"
    expected = f"a folder that {_MADE_BY[kind]} writes"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, expected {expected}")
    try:
        data = json.loads(file.read_bytes())
    except OSError as e:
        raise InputError(f"{file}: can't be read ({e.strerror}): {path} is not {expected}") from None
    except ValueError as e:
        raise InputError(f"{file}: is not JSON: {e}") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != kind:
        raise InputError(f"{file}: format is {found!r}, expected {kind!r}: {path} is not {expected}")
    if not isinstance(data.get("version"), int) or data["version"] > VERSION:
        raise InputError(f"{file}: version is {data.get('version')}, svdjax {__version__} reads up to {VERSION}: update svdjax")
    files = data.get("files")
    if not isinstance(files, dict):
        raise InputError(f"{file}: is damaged: it lists no files")
    # Checked here because TensorStore reports what it can't read on standard error, a traceback a tensor.
    for name, size in files.items():
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes, expected {size:,}"
            raise InputError(f"{path / name}: {state}: the checkpoint is not complete, make or copy it again")
    return data
