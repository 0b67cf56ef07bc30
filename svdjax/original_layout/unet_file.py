"""Open the weights of a UNet alone, such as AnimateLCM-SVD's, to be used in another model of the same configuration."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from svdjax.checkpoints.safetensors_reader import Weights, read_header
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.model_folder import open_unet
from svdjax.diffusers_layout.name_table import check_headers, network_table
from svdjax.errors import InputError
from svdjax.original_layout.file_parts import FilePart
from svdjax.original_layout.name_table import UNET, check_exists, original

PREFIXES = (UNET, "unet.", "")  # before the names of a UNet's tensors; files with the first may hold other networks too


def open_unet_weights(path: Path, config: SVDConfig) -> Weights:
    """Open a UNet's weights and check every tensor; only the header is read.

    Args:
        path: a safetensors file with diffusers' names or Stability's, with or without a prefix; or a UNet's folder in diffusers
            layout.
        config: the configuration of the model that uses it.

    Raises:
        InputError: other files, or tensors that differ in name or shape from the configuration's.
    """
    rows = {row.torch_name: row.torch_shape for row in network_table("unet", config).values()}
    described = "the model's UNet has, expected a UNet of the same configuration"
    if not os.path.isfile(path):
        unet = open_unet(path)
        for field in dataclasses.fields(config.unet):
            found, expected = getattr(unet.config, field.name), getattr(config.unet, field.name)
            if found != expected and field.name not in ("num_frames", "sample_size"):
                raise InputError(f"{unet.json_file}: {field.name} is {found}, expected {expected} as in the model's UNet")
        check_headers(rows, unet.weights.tensors, str(unet.weights.where), described)
        return unet.weights
    headers = read_header(path)
    prefix = next(prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in headers) or not prefix)
    found = {name.removeprefix(prefix): header for name, header in headers.items() if name.startswith(prefix)}
    names = {name: name for name in rows}
    if any(name.startswith("input_blocks.") for name in found):
        check_exists(config)
        names = {name: original("unet", name, shape, config).name.removeprefix(UNET) for name, shape in rows.items()}
    check_headers({names[name]: shape for name, shape in rows.items()}, found, str(path), described)
    return FilePart(path, (path,), {name: found[stored] for name, stored in names.items()})
