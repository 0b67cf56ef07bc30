"""Backward weights in one safetensors file, to be shared: differences from the UNet's own tensors, under diffusers' names.

Added to the tensors of the same name of a UNet in PyTorch, they give the backward UNet. The header's metadata has `svdjax`, a
JSON text: format, version, and the same `backward` as in `config.json` of a folder (`svdjax.checkpoints.delta`), with the kinds
of tensors that were trained and the hashes of the UNet that they were trained from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from svdjax.checkpoints.manifest import BACKWARD, check_backward_info, check_version
from svdjax.checkpoints.safetensors_reader import NUMPY_DTYPES, Weights, read_metadata
from svdjax.checkpoints.safetensors_writer import write_tensors
from svdjax.errors import InputError
from svdjax.runtime.input_files import parse_json
from svdjax.version import __version__

ENDING = ".safetensors"
METADATA = "svdjax"  # key in the header's metadata
EXPECTED = "backward weights as convert.flax_to_svd --only-trained writes them"
# Ends of tensor names in svdjax and in diffusers; kernels have swapped axes there.
_ENDS = {
    ".attn1.to_v.kernel": ".attn1.to_v.weight",
    ".attn1.to_out.kernel": ".attn1.to_out.0.weight",
    ".attn1.to_out.bias": ".attn1.to_out.0.bias",
    ".attn1.to_q.kernel": ".attn1.to_q.weight",
    ".attn1.to_k.kernel": ".attn1.to_k.weight",
}


def is_file(path: Path) -> bool:
    """Whether a path is a safetensors file, by its ending."""
    return path.suffix == ENDING and os.path.isfile(path)


def write(path: Path, differences: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Write a new file.

    Args:
        path: the file.
        differences: by dotted name in svdjax, all of one dtype.
        info: see `svdjax.checkpoints.delta.save_backward`; with the `trained` kinds.

    Raises:
        InputError: the file can't be written.
    """
    header = {"format": BACKWARD.name, "version": BACKWARD.version, "svdjax": __version__, "backward": dict(info)}
    values = {_torch_name(name): value.T for name, value in differences.items()}
    shapes = {name: value.shape for name, value in values.items()}
    dtype = next(iter(values.values())).dtype.name
    write_tensors(path, shapes, dtype, values.values(), {"format": "pt", METADATA: json.dumps(header)})


def read_info(path: Path) -> dict[str, Any]:
    """Read `info` from the header; see `write`.

    Raises:
        InputError: not such a file, another version, or damaged.
    """
    Weights.open(path, (path,))
    text = read_metadata(path).get(METADATA)
    data = {} if text is None else parse_json(text.encode(), f"{path}: {METADATA} in its metadata")
    if not isinstance(data, dict) or data.get("format") != BACKWARD.name:
        raise InputError(f"{path}: holds no backward weights of svdjax, by its header, expected {EXPECTED}")
    check_version(path, data.get("version"), BACKWARD)
    try:
        return check_backward_info(data.get("backward"))
    except InputError as e:
        raise InputError(f"{path}: its metadata is damaged: {e}") from None


def shapes(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the tensors, by dotted name in svdjax; for errors see `read`."""
    found = {}
    for name, tensor in Weights.open(path, (path,)).tensors.items():
        if tensor.dtype not in NUMPY_DTYPES:
            raise InputError(f"{path}: {name} is {tensor.dtype}, expected one of {', '.join(NUMPY_DTYPES)}")
        found[_own_name(path, name)] = jax.ShapeDtypeStruct(tensor.shape[::-1], NUMPY_DTYPES[tensor.dtype])
    return found


def read(path: Path) -> dict[str, np.ndarray]:
    """The differences by dotted name in svdjax, in the dtype of the file.

    Raises:
        InputError: a damaged file, a tensor that is not of a temporal self-attention, or NaN or infinite values.
    """
    return {_own_name(path, name): value.T for name, value in Weights.open(path, (path,)).stream(lambda _: None)}


def _torch_name(name: str) -> str:
    own = next(own for own in _ENDS if name.endswith(own))
    return name.removesuffix(own) + _ENDS[own]


def _own_name(path: Path, name: str) -> str:
    for own, torch in _ENDS.items():
        if name.endswith(torch):
            return name.removesuffix(torch) + own
    raise InputError(f"{path}: has {name}, expected tensors of temporal self-attentions only: {EXPECTED}")
