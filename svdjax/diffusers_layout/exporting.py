"""Write the backward UNet of a checkpoint, or all of it, as a diffusers folder, for use in PyTorch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from svdjax.checkpoints import delta
from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.checkpoint import Info, read_info
from svdjax.checkpoints.orbax_trees import stream_tree, tree_shapes
from svdjax.diffusers_layout import name_table
from svdjax.diffusers_layout.config_files import json_files, unet_json
from svdjax.diffusers_layout.model_folder import STEMS
from svdjax.diffusers_layout.safetensors_writer import write_tensors
from svdjax.errors import InputError
from svdjax.models.backward import check_overlay, trained_kinds
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, leaves
from svdjax.runtime.atomic import new_folder, require_space
from svdjax.version import __version__

DTYPES = ("float32", "bfloat16", "float16")
AT_ONCE = 2**28  # bytes of float32 that are read together: few calls of Orbax, little memory
_MARK = "_svdjax"  # in config.json: who wrote it; diffusers passes over names with an underscore in front


@dataclass(frozen=True)
class Export:
    """What to write: the arguments of `convert.flax_to_svd`. `dtype` None is the one that the model is stored in."""

    model: Path
    out: Path
    whole: bool = False
    only_trained: bool = False
    backward: Path | None = None
    dtype: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Tuned:
    """Backward tensors in float32 by dotted name: values, or differences from the UNet's own."""

    tensors: dict[str, np.ndarray]
    differences: bool
    info: dict[str, Any]

    def of(self, name: str, own: np.ndarray) -> np.ndarray:
        """What the backward UNet has for a tensor of which the UNet has `own`, float32."""
        if name not in self.tensors:
            return own
        return own + self.tensors[name] if self.differences else self.tensors[name]


@dataclass(frozen=True)
class Network:
    """A network to write: a key of `NETWORKS`, its folder within OUT, and backward tensors to put into it."""

    name: str
    folder: str
    tuned: Tuned | None = None


def export(job: Export) -> None:
    """Write the folder, reading and writing a few tensors at a time.

    Raises:
        InputError: anything wrong with the model, the backward weights or the output; nothing is left at `job.out` then.
    """
    with new_folder(job.out, overwrite=job.overwrite, ours=_is_ours) as folder:
        info = read_info(job.model)
        dtype = job.dtype or info.dtype
        tuned = _open_tuned(job, info)
        networks = [Network(name, name) for name in NETWORKS] if job.whole else []
        if tuned is not None:
            networks.append(Network("unet", "unet_backward" if job.whole else "", tuned))
        tables = {
            name: name_table.table({leaf: value.shape for leaf, value in _shapes(info, name).items()}) for name in NETWORKS
        }
        if job.only_trained and tuned is not None:
            tables["unet"] = {leaf: row for leaf, row in tables["unet"].items() if leaf in tuned.tensors}
        written = np.dtype(dtype).itemsize * sum(row.size for network in networks for row in tables[network.name].values())
        require_space(folder, written, job.out)
        with tqdm(total=written, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            for network in networks:
                bar.set_description(network.folder or "unet")
                _write_network(job, folder / network.folder, network, info, tables[network.name], dtype, bar.update)
        if job.whole:
            for name, data in json_files(info.config).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(json.dumps(data, indent=2) + "\n")
    if job.backward is not None and (note := delta.transfer_note(job.backward, info.sources)):
        print(note)
    count = written // np.dtype(dtype).itemsize
    trained = "no backward weights" if tuned is None else f"with backward weights {', '.join(trained_kinds(tuned.tensors))}"
    what = "a whole model" if job.whole else "what was trained of a UNet," if job.only_trained else "a UNet"
    print(f"{job.out}: {what} of {count:,} parameters in {dtype}, {written / 2**30:.2f} GiB, {trained}")


def _shapes(info: Info, name: str) -> dict[str, Any]:
    return leaves(abstract(NETWORKS[name], getattr(info.config, name), np.float32))


def _write_network(
    job: Export,
    folder: Path,
    network: Network,
    info: Info,
    rows: Mapping[str, name_table.Row],
    dtype: str,
    advance: Callable[[int], None],
) -> None:
    """The weights of one network, and the configuration of a UNet."""
    folder.mkdir(exist_ok=True)
    tuned = network.tuned

    def converted() -> Iterator[np.ndarray]:
        expected = {leaf: shape for leaf, shape in _shapes(info, network.name).items() if leaf in rows}
        for leaf, own in stream_tree(job.model / network.name, expected, AT_ONCE, partial=job.only_trained):
            value = rows[leaf].layout.to_torch(own if tuned is None else tuned.of(leaf, own))
            yield cast_finite(value, dtype, f"{job.model}: {leaf}")
            advance(value.size * np.dtype(dtype).itemsize)

    shapes = {row.torch_name: row.torch_shape for row in rows.values()}
    write_tensors(folder / f"{STEMS[network.name]}.safetensors", shapes, dtype, converted(), {"format": "pt"})
    if network.name == "unet":
        mark = {"version": __version__, "backward": None if tuned is None else tuned.info}
        config = {**unet_json(info.config.unet), _MARK: mark}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _open_tuned(job: Export, model: Info) -> Tuned | None:
    """The backward weights of `--backward`, or the model's own, checked and read; None if a whole model has none."""
    unet = _shapes(model, "unet")
    if job.backward is not None:
        delta.check(job.backward, unet)
        tree, info = job.backward / "delta", delta.read_backward_info(job.backward)
    elif model.backward is not None:
        tree, info = job.model / "backward", dict(model.backward)
        check_overlay(tree_shapes(tree), unet, str(tree))
    elif job.whole:
        return None
    else:
        raise InputError(f"{job.model}: no backward weights, which are what is written: give --backward DIR, or --whole")
    expected = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in tree_shapes(tree).items()}
    return Tuned(dict(stream_tree(tree, expected, AT_ONCE)), job.backward is not None, info)


def _is_ours(folder: Path) -> bool:
    for file in (folder / "config.json", folder / "unet" / "config.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            return _MARK in json.loads(file.read_bytes())
    return False
