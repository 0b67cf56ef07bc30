"""Open a model in one file in Stability's original layout: recognize it, check every tensor, find each network's bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from svdjax.checkpoints.safetensors_reader import StoredTensor, read_header, read_metadata
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.model_folder import Model
from svdjax.diffusers_layout.name_table import TensorRow, check_headers, network_table
from svdjax.errors import InputError, one_line
from svdjax.models.svd import NETWORKS
from svdjax.original_layout.config_from_shapes import config_of
from svdjax.original_layout.file_parts import FilePart
from svdjax.original_layout.name_table import (
    DECODER,
    ENCODER,
    PLAIN_ENCODER,
    UNET,
    UNUSED,
    VISION,
    OriginalTensor,
    check_exists,
    original,
)

Headers = Mapping[str, StoredTensor]

EXPECTED = "Stable Video Diffusion in one file (svd.safetensors, svd_xt.safetensors) or in a diffusers folder"
CONFIG = "svdjax_config"  # key of the configuration in the metadata of files that svdjax wrote
FRAMES, FRAMES_XT = 14, 25  # frames per clip of SVD and of SVD-XT
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def open_file(path: Path, num_frames: int | None = None) -> Model:
    """Open a model in one file; its header is read and checked in full, its weights are not read.

    Args:
        path: a safetensors file with all networks, under Stability's names; OpenCLIP's vision tower may have transformers'
            names, as in files that ComfyUI wrote.
        num_frames: frames per clip; default: from the file's metadata if svdjax wrote it, or else from the file's name.

    Raises:
        InputError: not a complete safetensors file, another kind of model, or tensors that are missing, unexpected, or of
            another shape or type.
    """
    headers = read_header(path)
    _recognize(path, headers)
    encoder = ENCODER if f"{ENCODER}encoder.conv_in.weight" in headers else PLAIN_ENCODER
    other_encoder = f"{PLAIN_ENCODER}encoder." if encoder == ENCODER else ENCODER
    used = {name: header for name, header in headers.items() if not name.startswith((*UNUSED, other_encoder))}
    config, how = _config(path, used, num_frames, encoder)
    places = {
        network: {
            row.torch_name: _place(network, row, config, encoder, used) for row in network_table(network, config).values()
        }
        for network in NETWORKS
    }
    constants = {}
    if f"{encoder}quant_conv.weight" not in used:
        constants = _identity(2 * config.vae.latent_channels)
        places["vae"] = {name: place for name, place in places["vae"].items() if name not in constants}
    expected = {place.name: place.shape for tensors in places.values() for place in tensors.values()}
    check_headers(expected, used, str(path), f"a model of its shapes has, expected {EXPECTED}")
    weights = {
        network: _part(path, used, tensors, constants if network == "vae" else {}) for network, tensors in places.items()
    }
    dtypes = "+".join(sorted({_DTYPES[header.dtype] for header in used.values()}))
    notes = [f"{path}: Stable Video Diffusion in Stability's layout, {dtypes}, {config.unet.num_frames} frames per clip {how}"]
    if len(headers) > len(used):
        notes.append(f"{path}: {len(headers) - len(used):,} tensors are not used: other copies, a text tower")
    return Model(config, dict(weights), (), tuple(notes))


def _recognize(path: Path, headers: Headers) -> None:
    """Refuse everything but a whole SVD, and say what the file is."""
    has = {prefix: any(name.startswith(prefix) for name in headers) for prefix in (UNET, DECODER + "decoder.", VISION)}
    video = f"{UNET}input_blocks.1.0.time_stack.in_layers.0.weight" in headers
    temporal = f"{DECODER}decoder.conv_out.time_mix_conv.weight" in headers
    if all(has.values()) and video and temporal:
        return
    advice = ""
    if any(name.endswith("temporal_transformer_blocks.0.attn1.to_q.weight") for name in headers):
        found = "is a UNet in diffusers layout, without the VAE and the image encoder"
        advice = ": give its folder, or convert.svd_to_flax --unet"
    elif not has[UNET]:
        found = "holds other weights"
        if any(name.startswith("input_blocks.") for name in headers):
            found, advice = "is a UNet without the VAE and the image encoder", ": convert.svd_to_flax --unet takes it"
    elif not video:
        found = "is a model for images, without temporal layers"
    elif not temporal and has[DECODER + "decoder."]:
        found = "has the VAE's decoder for images, without temporal layers"
    else:
        missing = [name for name, prefix in (("VAE", DECODER + "decoder."), ("image encoder", VISION)) if not has[prefix]]
        found = f"lacks the {' and the '.join(missing)}"
    raise InputError(f"{path}: {found}, expected {EXPECTED}{advice}")


def _config(path: Path, headers: Headers, num_frames: int | None, encoder: str) -> tuple[SVDConfig, str]:
    """The configuration, and how the number of frames is known."""
    frames, how = frames_of_name(path.name)
    try:
        if stored := read_metadata(path).get(CONFIG):
            try:
                config, how = SVDConfig.from_json(json.loads(stored)), "by its metadata"
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
                raise InputError(f"{CONFIG} in its metadata is damaged: {one_line(e, 200)}") from None
        else:
            config = config_of(headers, frames, encoder)
        check_exists(config)
        if num_frames is not None:
            unet = dataclasses.replace(config.unet, num_frames=num_frames)
            config, how = dataclasses.replace(config, unet=unet), "as given"
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
    return config, how


def frames_of_name(name: str) -> tuple[int, str]:
    """Frames per clip by the name of a file, which shapes don't tell, and how they are known.

    SVD-XT has `xt` in its name, SVD begins with `svd`; other files are taken for SVD-XT, the usual base of fine-tunes.
    """
    if re.search(r"(?<![a-z])xt(?![a-z])", name.lower()):
        return FRAMES_XT, "by its name"
    if re.match(r"(svd|stable[-_]?video)(?![a-z])", name.lower()):
        return FRAMES, "by its name"
    return FRAMES_XT, f"assumed (--num-frames {FRAMES} for SVD instead of SVD-XT)"


def _place(network: str, row: TensorRow, config: SVDConfig, encoder: str, headers: Headers) -> OriginalTensor:
    """Where the file holds a tensor."""
    if network == "image_encoder" and f"{VISION}{row.torch_name}" in headers:
        return OriginalTensor(name=f"{VISION}{row.torch_name}", shape=row.torch_shape)
    tensor = original(network, row.torch_name, row.torch_shape, config)
    if tensor.name.startswith(ENCODER):
        return dataclasses.replace(tensor, name=encoder + tensor.name.removeprefix(ENCODER))
    return tensor


def _identity(size: int) -> dict[str, np.ndarray]:
    """A `quant_conv` that changes nothing, for files with an encoder that has it multiplied into its last convolution."""
    return {
        "quant_conv.weight": np.eye(size, dtype=np.float32)[..., None, None],
        "quant_conv.bias": np.zeros(size, np.float32),
    }


def _part(path: Path, headers: Headers, places: Mapping[str, OriginalTensor], constants: dict[str, np.ndarray]) -> FilePart:
    """A network: the bytes of each tensor in the file, and tensors that it doesn't hold."""
    stored = {name: _slice(headers[place.name], place) for name, place in places.items()}
    for name, values in constants.items():
        stored[name] = StoredTensor(dtype="F32", shape=values.shape, path=path, start=0, stop=0)
    transposed = frozenset(name for name, place in places.items() if place.transposed)
    return FilePart(path, (path,), stored, transposed=transposed, constants=constants)


def _slice(header: StoredTensor, tensor: OriginalTensor) -> StoredTensor:
    """A tensor of diffusers layout within a stored tensor."""
    shape = header.shape
    if tensor.transposed:
        return dataclasses.replace(header, shape=shape[::-1])
    if tensor.part is not None:
        size = header.nbytes // 3
        start = header.start + tensor.part * size
        return dataclasses.replace(header, shape=(shape[0] // 3, *shape[1:]), start=start, stop=start + size)
    if tensor.squeezed:
        return dataclasses.replace(header, shape=shape[:2])
    return header
