"""Write the backward UNet of a checkpoint, or the whole model, as a diffusers folder for PyTorch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from svdjax.checkpoints import backward_file, delta
from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.checkpoint import Info, read_info
from svdjax.checkpoints.orbax_trees import stream_tree, tree_shapes
from svdjax.checkpoints.safetensors_reader import read_header, read_metadata
from svdjax.checkpoints.safetensors_writer import write_tensors
from svdjax.diffusers_layout.backward_weights import MARK
from svdjax.diffusers_layout.config_files import other_json, unet_json
from svdjax.diffusers_layout.model_folder import WEIGHTS_NAMES
from svdjax.diffusers_layout.name_table import TensorRow, network_table
from svdjax.errors import InputError
from svdjax.models.backward import check_backward_tensors, trained_kinds
from svdjax.models.svd import NETWORKS
from svdjax.runtime.atomic import new_file, new_folder, require_space
from svdjax.runtime.input_files import read_json
from svdjax.runtime.output_paths import check_new_file
from svdjax.runtime.sizes import bytes_as_text
from svdjax.version import __version__

GROUP_BYTES = 2**28  # float32 values that are read in one call of Orbax: few calls, little memory


@dataclass(frozen=True, kw_only=True)
class Export:
    """The arguments of `convert.flax_to_svd`. If `dtype` is None, the model's stored dtype is written."""

    model: Path
    out: Path
    whole: bool = False
    only_trained: bool = False
    single_file: bool = False
    backward: Path | None = None
    dtype: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class BackwardTensors:
    """The backward direction's tensors in float32, by dotted name.

    Attributes:
        tensors: their values, or their differences from the UNet's own tensors.
        differences: whether they are differences.
        info: how they were trained, for `_svdjax` in config.json.
    """

    tensors: dict[str, np.ndarray]
    differences: bool
    info: dict[str, Any]

    def replace(self, name: str, own: np.ndarray) -> np.ndarray:
        """The backward UNet's tensor, from the UNet's `own`, float32."""
        if name not in self.tensors:
            return own
        return own + self.tensors[name] if self.differences else self.tensors[name]


@dataclass(frozen=True)
class NetworkPlan:
    """A network to write.

    Attributes:
        name: a key of `NETWORKS`.
        folder: its folder in OUT; empty for OUT itself.
        rows: name table of the tensors to write.
        backward: tensors that replace its own, or None.
    """

    name: str
    folder: str
    rows: dict[str, TensorRow]
    backward: BackwardTensors | None


@dataclass(frozen=True)
class ExportPlan:
    """An export with its inputs checked: the checkpoint's `config.json`, the dtype and the networks to write, in order."""

    info: Info
    dtype: str
    networks: list[NetworkPlan]

    @property
    def count(self) -> int:
        """Number of parameters to write."""
        return sum(row.size for network in self.networks for row in network.rows.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors to write."""
        return self.count * np.dtype(self.dtype).itemsize


def export(job: Export) -> None:
    """Write the folder, reading and writing a few tensors at a time.

    Raises:
        InputError: anything wrong with the model, the backward weights or the output; `job.out` is then unchanged.
    """
    with new_folder(job.out, overwrite=job.overwrite, ours=_is_ours) as folder:
        plan = _plan(job)
        require_space(folder, plan.nbytes, job.out)
        _write(job, plan, folder)
    _report(job, plan)


def export_backward_file(job: Export) -> None:
    """Write the backward weights as one file of differences from the UNet's own tensors: `svdjax.checkpoints.backward_file`.

    Raises:
        InputError: see `export`.
    """
    with new_weights_file(job) as path:
        info = read_info(job.model)
        rows = network_table("unet", info.config)
        backward = _read_backward(job, info, rows)
        assert backward is not None
        facts, differences = backward.info, backward.tensors
        if not backward.differences:
            facts = {"trained": backward.info["trained"], "sources": info.sources}
            expected = {leaf: jax.ShapeDtypeStruct(rows[leaf].shape, np.float32) for leaf in backward.tensors}
            own = stream_tree(job.model / "unet", expected, GROUP_BYTES, partial=True)
            differences = {leaf: backward.tensors[leaf] - value for leaf, value in own}
        dtype = job.dtype or "float16"
        cast = {leaf: cast_finite(value, dtype, f"{job.out}: the difference of {leaf}") for leaf, value in differences.items()}
        nbytes = sum(value.nbytes for value in cast.values())
        require_space(path.parent, nbytes, job.out)
        backward_file.write(path, cast, facts)
    print(f"{job.out}: backward weights {', '.join(trained_kinds(cast))} in {dtype}, {bytes_as_text(nbytes)}")


@contextlib.contextmanager
def new_weights_file(job: Export) -> Iterator[Path]:
    """Yield the path of a temporary file to be written, which becomes `job.out` at the end of the block.

    Raises:
        InputError: `job.out` has another ending, can't be written, or exists and may not be replaced.
    """
    check_new_file(job.out, "OUT", (backward_file.ENDING,), overwrite=job.overwrite)
    if os.path.lexists(job.out) and not _is_our_file(job.out):
        raise InputError(f"{job.out}: exists and was not written by this command: --overwrite does not replace it")
    with new_file(job.out) as path:
        yield path


def _plan(job: Export) -> ExportPlan:
    """Check the checkpoint and its backward weights, and list the networks to write."""
    info = read_info(job.model)
    tables = {network: network_table(network, info.config) for network in NETWORKS}
    unet = tables["unet"]
    backward = _read_backward(job, info, unet)
    networks = [NetworkPlan(network, network, tables[network], None) for network in NETWORKS] if job.whole else []
    if backward is not None:
        rows = {leaf: row for leaf, row in unet.items() if leaf in backward.tensors} if job.only_trained else unet
        networks.append(NetworkPlan("unet", "unet_backward" if job.whole else "", rows, backward))
    return ExportPlan(info, job.dtype or info.dtype, networks)


def _read_backward(job: Export, model: Info, unet: dict[str, TensorRow]) -> BackwardTensors | None:
    """The backward weights of `--backward`, or the model's own; None with `--whole` and neither."""
    if job.backward is not None:
        delta.check_backward_folder(job.backward, unet)
        return BackwardTensors(delta.read_differences(job.backward), True, delta.read_backward_info(job.backward))
    if model.backward is not None:
        tree, info = job.model / "backward", dict(model.backward)
        check_backward_tensors(tree_shapes(tree), unet, str(tree))
    elif job.whole:
        return None
    else:
        raise InputError(f"{job.model}: has no backward weights to write: give --backward DIR, or --whole")
    expected = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in tree_shapes(tree).items()}
    return BackwardTensors(dict(stream_tree(tree, expected, GROUP_BYTES)), False, info)


def _write(job: Export, plan: ExportPlan, folder: Path) -> None:
    with tqdm(total=plan.nbytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for network in plan.networks:
            bar.set_description(network.folder or network.name)
            path = folder / network.folder
            path.mkdir(exist_ok=True)
            shapes = {row.torch_name: row.torch_shape for row in network.rows.values()}
            arrays = _torch_arrays(job, network, plan.dtype, bar.update)
            write_tensors(path / f"{WEIGHTS_NAMES[network.name]}.safetensors", shapes, plan.dtype, arrays, {"format": "pt"})
            if network.name == "unet":
                mark = {"version": __version__, "backward": None if network.backward is None else network.backward.info}
                _write_json(path / "config.json", {**unet_json(plan.info.config.unet), MARK: mark})
    if job.whole:
        for name, data in other_json(plan.info.config).items():
            (folder / name).parent.mkdir(exist_ok=True)
            _write_json(folder / name, data)


def _torch_arrays(job: Export, network: NetworkPlan, dtype: str, advance: Callable[[int], object]) -> Iterator[np.ndarray]:
    """The tensors of a network with PyTorch's axes, in the order of its rows."""
    expected = {leaf: jax.ShapeDtypeStruct(row.shape, np.float32) for leaf, row in network.rows.items()}
    for leaf, own in stream_tree(job.model / network.name, expected, GROUP_BYTES, partial=job.only_trained):
        value = network.rows[leaf].layout.to_torch(own if network.backward is None else network.backward.replace(leaf, own))
        yield cast_finite(value, dtype, f"{job.model}: {leaf}")
        advance(value.size * np.dtype(dtype).itemsize)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def _report(job: Export, plan: ExportPlan) -> None:
    """Print one line about the folder, after a note if backward weights were transferred."""
    if job.backward is not None and (note := delta.transfer_note(job.backward, plan.info.sources)):
        print(note)
    backward = next((network.backward for network in plan.networks if network.backward is not None), None)
    trained = "no backward weights" if backward is None else f"backward weights {', '.join(trained_kinds(backward.tensors))}"
    part = "a whole model" if job.whole else "the trained tensors of a UNet" if job.only_trained else "a UNet"
    size = bytes_as_text(plan.nbytes)
    print(f"{job.out}: {part}, {plan.count:,} parameters in {plan.dtype}, {size}, with {trained}")


def _is_our_file(path: Path) -> bool:
    """Whether this command wrote a file."""
    with contextlib.suppress(InputError):
        read_header(path)
        return backward_file.METADATA in read_metadata(path)
    return False


def _is_ours(folder: Path) -> bool:
    """Whether this command wrote a folder."""
    for file in (folder / "config.json", folder / "unet" / "config.json"):
        with contextlib.suppress(InputError):
            return MARK in read_json(file)
    return False
