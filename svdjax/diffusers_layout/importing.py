"""Convert Stable Video Diffusion from a diffusers folder to a checkpoint that `svdjax.load` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.checkpoint import Info, is_model, write_info
from svdjax.checkpoints.orbax_trees import save_tree
from svdjax.diffusers_layout import model_folder, name_table
from svdjax.diffusers_layout.backward_weights import Overlay, Tuned, open_tuned, read_overlay
from svdjax.diffusers_layout.safetensors_reader import Weights, sha256
from svdjax.models.backward import VALUES, expected_names, trained_kinds
from svdjax.models.initialize import abstract
from svdjax.models.svd import NETWORKS, leaves
from svdjax.runtime.atomic import new_folder, require_space

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Conversion:
    """What to convert: the arguments of `convert.svd_to_flax`."""

    source: Path
    out: Path
    backward: Path | None = None
    backward_base: Path | None = None
    dtype: str = "float32"
    overwrite: bool = False


def convert(job: Conversion) -> None:
    """Convert one model, a network at a time, so that no more than the largest network is in memory.

    Raises:
        InputError: anything wrong with the source or the output; nothing is left at `job.out` then.
    """
    with new_folder(job.out, overwrite=job.overwrite, ours=is_model) as folder:
        model = model_folder.open_model(job.source)
        tables = {}
        for name, weights in model.weights.items():
            network = abstract(NETWORKS[name], getattr(model.config, name), np.float32)
            tables[name] = name_table.table({leaf: value.shape for leaf, value in leaves(network).items()})
            name_table.check(name, tables[name], weights.tensors, str(weights.where))
        unet, unet_rows = model.weights["unet"], tables["unet"]
        tuned = None
        if job.backward is not None:
            tuned = open_tuned(job.backward, job.backward_base, model.config.unet, unet_rows)
        for weights in (*model.weights.values(), *([tuned.weights, tuned.base] if tuned else [])):
            for other in model_folder.unread(weights) if weights else ():
                print(f"{weights.where} is read; {other.name} beside it is not")
        itemsize = np.dtype(job.dtype).itemsize
        written = {name: itemsize * sum(row.size for row in rows.values()) for name, rows in tables.items()}
        if tuned is not None:
            written["backward"] = itemsize * sum(unet_rows[leaf].size for leaf in expected_names(unet_rows, VALUES))
        require_space(folder, sum(written.values()), job.out)

        reading = sum(weights.nbytes for weights in model.weights.values()) + (tuned.weights.nbytes if tuned else 0)
        with tqdm(total=reading + sum(written.values()), unit="B", unit_scale=True, disable=None, leave=False) as bar:
            for name, weights in model.weights.items():
                bar.set_description(name)
                save_tree(folder / name, _converted(weights, tables[name], job.dtype, bar.update))
                bar.update(written[name])
            overlay = None
            if tuned is not None:
                bar.set_description("backward")
                overlay = read_overlay(tuned, unet, unet_rows, bar.update)
                where = tuned.weights.where
                cast = {name: cast_finite(value, job.dtype, f"{where}: {name}") for name, value in overlay.values.items()}
                save_tree(folder / "backward", cast)
                bar.update(written["backward"])
        write_info(folder, Info(model.config, job.dtype, _backward_info(job, overlay), _hashes(job, model, tuned)))
    for note in overlay.notes if overlay else ():
        print(note)
    print(_summary(job, tables, sum(written.values()), overlay))


def _converted(
    weights: Weights, rows: Mapping[str, name_table.Row], dtype: str, advance: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """A network's tensors in our layout and in `dtype`, by dotted name here."""
    leaf_of = {row.torch_name: leaf for leaf, row in rows.items()}
    return {
        leaf_of[name]: cast_finite(rows[leaf_of[name]].layout.to_flax(values), dtype, f"{weights.where}: {name}")
        for name, values in weights.stream(advance)
        if name in leaf_of
    }


def _backward_info(job: Conversion, overlay: Overlay | None) -> dict[str, object] | None:
    if overlay is None:
        return None
    base = None if job.backward_base is None else str(job.backward_base)
    return {"trained": trained_kinds(overlay.values), "source": str(job.backward), "base": base}


def _hashes(job: Conversion, model: model_folder.Model, tuned: Tuned | None) -> dict[str, str]:
    """SHA-256 of every file that was read, by its path in SOURCE, or after `backward/` and `backward-base/`."""
    hashes = {str(path.relative_to(job.source)): sha256(path) for path in model.json_files}
    for weights in model.weights.values():
        hashes |= {str(path.relative_to(job.source)): digest for path, digest in weights.hashes().items()}
    if tuned is not None:
        hashes[f"backward/{tuned.json_file.name}"] = sha256(tuned.json_file)
        hashes |= {f"backward/{path.name}": digest for path, digest in tuned.weights.hashes().items()}
        if tuned.base is not None and tuned.base_json is not None:
            hashes[f"backward-base/{tuned.base_json.name}"] = sha256(tuned.base_json)
            hashes |= {f"backward-base/{path.name}": digest for path, digest in tuned.base.hashes().items()}
    return hashes


def _summary(job: Conversion, tables: Mapping[str, Mapping[str, name_table.Row]], written: int, overlay: Overlay | None) -> str:
    counts = {name: sum(row.size for row in rows.values()) for name, rows in tables.items()}
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    line = f"{job.out}: {sum(counts.values()):,} parameters ({parts}) in {job.dtype}, {written / 2**30:.2f} GiB; "
    if overlay is None:
        return line + "no backward weights"
    base = "" if job.backward_base is None else f" minus {job.backward_base}"
    return line + f"backward weights {', '.join(trained_kinds(overlay.values))} from {job.backward}{base}"
