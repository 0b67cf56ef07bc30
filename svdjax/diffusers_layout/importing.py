"""Convert Stable Video Diffusion from PyTorch's files to a checkpoint that `svdjax.load` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.checkpoint import Info, is_model, write_info
from svdjax.checkpoints.orbax_trees import save_tree
from svdjax.checkpoints.safetensors_reader import Weights, sha256
from svdjax.diffusers_layout.backward_weights import Overlay, TunedUNet, open_tuned, read_overlay
from svdjax.diffusers_layout.model_folder import Model, UNetFolder, name_tables, open_model, unused_notes
from svdjax.diffusers_layout.name_table import TensorRow
from svdjax.models.backward import VALUES, names_of_kinds, trained_kinds
from svdjax.runtime.atomic import new_folder, require_space
from svdjax.runtime.sizes import bytes_as_text


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The arguments of `convert.svd_to_flax`; `open_source` opens `source`, by default a diffusers folder."""

    source: Path
    out: Path
    open_source: Callable[[Path], Model] = open_model
    backward: Path | None = None
    backward_base: Path | None = None
    dtype: str = "float32"
    overwrite: bool = False


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion with its files opened and checked, not yet read.

    Attributes:
        model: the source.
        tables: the name table of each network.
        tuned: the fine-tuned UNet of `--backward`, if given.
        sizes: bytes to write for each network and for `backward`.
    """

    model: Model
    tables: dict[str, dict[str, TensorRow]]
    tuned: TunedUNet | None
    sizes: dict[str, int]


def convert(job: Conversion) -> None:
    """Convert one model, one network at a time: memory is needed for the largest network only.

    Raises:
        InputError: anything wrong with the source or the output; `job.out` is then unchanged.
    """
    with new_folder(job.out, overwrite=job.overwrite, ours=is_model) as folder:
        plan = _plan(job)
        require_space(folder, sum(plan.sizes.values()), job.out)
        _print_notes(plan)
        overlay = _write(job, plan, folder)
    _report(job, plan, overlay)


def network_arrays(
    weights: Weights, rows: Mapping[str, TensorRow], dtype: Any, advance: Callable[[int], object]
) -> Iterator[tuple[str, np.ndarray]]:
    """Read the tensors of one network, one at a time.

    Args:
        weights: the network's weight files.
        rows: the network's name table.
        dtype: a floating point type to cast to.
        advance: called after each tensor with its number of bytes.

    Yields:
        The dotted name in svdjax, and the contiguous values with svdjax's axes.

    Raises:
        InputError: NaN or infinite values, or values beyond the range of `dtype`.
    """
    leaf_of = {row.torch_name: leaf for leaf, row in rows.items()}
    for name, values in weights.stream(advance):
        if name in leaf_of:
            leaf = leaf_of[name]
            yield leaf, cast_finite(rows[leaf].layout.to_flax(values), dtype, f"{weights.where}: {name}")


def _plan(job: Conversion) -> ConversionPlan:
    """Open and check all files of the source."""
    model = job.open_source(job.source)
    tables = name_tables(model)
    itemsize = np.dtype(job.dtype).itemsize
    sizes = {network: itemsize * sum(row.size for row in rows.values()) for network, rows in tables.items()}
    if job.backward is None:
        return ConversionPlan(model, tables, None, sizes)
    unet = tables["unet"]
    tuned = open_tuned(job.backward, job.backward_base, model.config.unet, unet)
    sizes["backward"] = itemsize * sum(unet[leaf].size for leaf in names_of_kinds(unet, VALUES))
    return ConversionPlan(model, tables, tuned, sizes)


def _write(job: Conversion, plan: ConversionPlan, folder: Path) -> Overlay | None:
    """Write the checkpoint; returns its backward weights."""
    to_read = [*plan.model.weights.values(), *([] if plan.tuned is None else [plan.tuned.unet.weights])]
    total = sum(weights.nbytes for weights in to_read) + sum(plan.sizes.values())
    overlay = None
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for network, weights in plan.model.weights.items():
            bar.set_description(network)
            save_tree(folder / network, dict(network_arrays(weights, plan.tables[network], job.dtype, bar.update)))
            bar.update(plan.sizes[network])
        if plan.tuned is not None:
            bar.set_description("backward")
            overlay = read_overlay(plan.tuned, plan.model.weights["unet"], plan.tables["unet"], bar.update)
            where = plan.tuned.unet.weights.where
            cast = {leaf: cast_finite(value, job.dtype, f"{where}: {leaf}") for leaf, value in overlay.values.items()}
            save_tree(folder / "backward", cast)
            bar.update(plan.sizes["backward"])
    write_info(folder, Info(plan.model.config, job.dtype, _backward_info(job, overlay), _hashes(plan)))
    return overlay


def _backward_info(job: Conversion, overlay: Overlay | None) -> dict[str, Any] | None:
    if overlay is None:
        return None
    base = None if job.backward_base is None else str(job.backward_base)
    return {"trained": trained_kinds(overlay.values), "source": str(job.backward), "base": base}


def _hashes(plan: ConversionPlan) -> dict[str, str]:
    """SHA-256 of all that was read: files by their paths in a diffusers folder, or networks; `--backward` by name."""
    hashes = {f"{path.parent.name}/{path.name}": sha256(path) for path in plan.model.json_files}
    for network, weights in plan.model.weights.items():
        hashes |= weights.hashes(network)
    for prefix, unet in _backward_folders(plan).items():
        hashes |= {f"{prefix}/{unet.json_file.name}": sha256(unet.json_file), **unet.weights.hashes(prefix)}
    return hashes


def _backward_folders(plan: ConversionPlan) -> dict[str, UNetFolder]:
    """The folders of `--backward` and `--backward-base`, by the prefix of their hashes in the checkpoint."""
    folders = {} if plan.tuned is None else {"backward": plan.tuned.unet, "backward-base": plan.tuned.base}
    return {name: unet for name, unet in folders.items() if unet is not None}


def _print_notes(plan: ConversionPlan) -> None:
    tuned = [note for unet in _backward_folders(plan).values() for note in unused_notes("unet", unet.weights)]
    print(*plan.model.notes, *tuned, sep="\n", end="\n" if plan.model.notes or tuned else "")


def _report(job: Conversion, plan: ConversionPlan, overlay: Overlay | None) -> None:
    """Print notes about the backward weights, and one line about the checkpoint."""
    for note in overlay.notes if overlay else ():
        print(note)
    counts = {network: sum(row.size for row in rows.values()) for network, rows in plan.tables.items()}
    parts = ", ".join(f"{network} {count:,}" for network, count in counts.items())
    size = bytes_as_text(sum(plan.sizes.values()))
    backward = "no backward weights"
    if overlay is not None:
        base = "" if job.backward_base is None else f" minus {job.backward_base}"
        backward = f"backward weights {', '.join(trained_kinds(overlay.values))} from {job.backward}{base}"
    print(f"{job.out}: {sum(counts.values()):,} parameters ({parts}) in {job.dtype}, {size}; {backward}")
