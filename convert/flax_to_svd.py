"""Write the backward UNet of a checkpoint as a diffusers folder, for use in PyTorch.

python -m convert.flax_to_svd MODEL OUT [--backward DIR] [--dtype float32|bfloat16|float16] [--overwrite]
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from convert import mapping
from convert.source import STEMS
from convert.write_tensors import write_tensors
from svdjax import __version__, cli, delta
from svdjax.atomic import new_folder, require_space
from svdjax.casting import cast_finite
from svdjax.checkpoint import read_info
from svdjax.config import UNetConfig
from svdjax.errors import InputError
from svdjax.initialize import abstract
from svdjax.model import leaves
from svdjax.orbax_trees import stream_tree, tree_shapes
from svdjax.overlay import check_overlay, trained_kinds
from svdjax.unet import UNet

DTYPES = ("float32", "bfloat16", "float16")
AT_ONCE = 2**28  # bytes of float32 that are read together: few calls of Orbax, little memory
# diffusers takes one number for all levels or a list; SVD's own files have one for these.
ONE_FOR_ALL = ("layers_per_block", "transformer_layers_per_block", "cross_attention_dim")
_MARK = "_svdjax"  # in config.json: who wrote it; diffusers passes over names with an underscore in front


@dataclass(frozen=True)
class Export:
    """What to write: the arguments of the command. `dtype` None is the one that the model is stored in."""

    model: Path
    out: Path
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


def export(job: Export) -> None:
    """Write the folder, reading and writing a few tensors at a time.

    Raises:
        InputError: anything wrong with the model, the backward weights or the output; nothing is left at `job.out` then.
    """
    with new_folder(job.out, overwrite=job.overwrite, ours=_is_ours) as folder:
        info = read_info(job.model)
        dtype = job.dtype or info.dtype
        unet = leaves(abstract(UNet, info.config.unet, np.float32))
        tuned = _open_tuned(job, info.backward, unet)
        rows = mapping.table({leaf: value.shape for leaf, value in unet.items()})
        written = np.dtype(dtype).itemsize * sum(row.size for row in rows.values())
        require_space(folder, written, job.out)
        with tqdm(total=written, unit="B", unit_scale=True, desc="unet", disable=None, leave=False) as bar:

            def converted() -> Iterator[np.ndarray]:
                for leaf, own in stream_tree(job.model / "unet", unet, AT_ONCE):
                    value = rows[leaf].layout.to_torch(tuned.of(leaf, own))
                    yield cast_finite(value, dtype, f"{job.model}: {leaf}")
                    bar.update(value.size * np.dtype(dtype).itemsize)

            shapes = {row.torch_name: row.torch_shape for row in rows.values()}
            write_tensors(folder / f"{STEMS['unet']}.safetensors", shapes, dtype, converted(), {"format": "pt"})
        config = {**unet_json(info.config.unet), _MARK: {"version": __version__, "backward": tuned.info}}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if job.backward is not None and (note := delta.transfer_note(job.backward, info.sources)):
        print(note)
    count = sum(row.size for row in rows.values())
    print(
        f"{job.out}: a UNet of {count:,} parameters in {dtype}, {written / 2**30:.2f} GiB, "
        f"with backward weights {', '.join(trained_kinds(tuned.tensors))}"
    )


def _open_tuned(job: Export, own: Mapping[str, Any] | None, unet: Mapping[str, Any]) -> Tuned:
    """The backward weights of `--backward`, or the model's own (`own`: what it says of them), checked and read."""
    if job.backward is not None:
        delta.check(job.backward, unet)
        tree, info = job.backward / "delta", delta.read_backward_info(job.backward)
    elif own is not None:
        tree, info = job.model / "backward", dict(own)
        check_overlay(tree_shapes(tree), unet, str(tree))
    else:
        raise InputError(f"{job.model}: no backward weights, which are what is written: give --backward DIR")
    expected = {name: jax.ShapeDtypeStruct(value.shape, np.float32) for name, value in tree_shapes(tree).items()}
    return Tuned(dict(stream_tree(tree, expected, AT_ONCE)), job.backward is not None, info)


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """The `config.json` that diffusers' `UNetSpatioTemporalConditionModel` is built from."""
    data = dataclasses.asdict(config)
    for name in ONE_FOR_ALL:
        if len(set(data[name])) == 1:
            data[name] = data[name][0]
    return {"_class_name": "UNetSpatioTemporalConditionModel", **data}


def _is_ours(folder: Path) -> bool:
    try:
        return _MARK in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def command(argv: list[str] | None) -> None:
    parser = cli.Parser(
        prog="python -m convert.flax_to_svd", description="Write the backward UNet of a checkpoint as a diffusers folder."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint made by python -m convert.svd_to_flax")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the UNet's folder to write, a new one: config.json and its weights"
    )
    parser.add_argument(
        "--backward", type=Path, metavar="DIR", help="backward weights of python -m train.backward instead of MODEL's own"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to write (the one that MODEL is stored in)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if this command wrote it")
    export(Export(**vars(parser.parse_args(argv))))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
