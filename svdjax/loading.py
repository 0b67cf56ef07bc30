"""Find and load a model: the embedded model, a converted checkpoint, or a diffusers folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from svdjax import embedded_model
from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.manifest import MODEL
from svdjax.checkpoints.orbax_trees import Shardings, in_host_memory
from svdjax.checkpoints.recognize import check_input_folder, wrong_folder
from svdjax.diffusers_layout import model_folder
from svdjax.errors import InputError
from svdjax.model_sources import Checkpoint, DiffusersFolder, ModelSource
from svdjax.models.svd import SVD
from svdjax.runtime.dtypes import check_dtype, compute_dtype

EXPORTED_BACKWARD = "unet_backward"  # in a folder that `convert.flax_to_svd --whole` wrote


def load(
    path: str | Path,
    *,
    dtype: Any = None,
    backward: str | Path | None = None,
    backward_base: str | Path | None = None,
    shardings: Shardings | None = None,
    offload: bool = False,
) -> SVD:
    """Load Stable Video Diffusion.

    Args:
        path: a checkpoint that `convert.svd_to_flax` or `train.base` wrote; a folder in diffusers layout; or `"embedded"`, the
            toy model of the package (a folder of that name is `"./embedded"`).
        dtype: dtype of computation and parameters. Default: the stored dtype; for the embedded model float32 on a CPU, bfloat16
            elsewhere. The VAE has at least float32 if its configuration sets `force_upcast`, as SVD's does.
        backward: backward weights to use instead of the model's own. Either a folder that `train.backward` wrote: it holds
            differences, which are added to this model's UNet, so they may come from another UNet of the same shapes, also with
            another `num_frames`. Or, if `path` is a diffusers folder, a fine-tuned UNet in diffusers layout.
        backward_base: the UNet in diffusers layout that the UNet `backward` was fine-tuned from, if it is not this model's.
        shardings: maps the name of a tensor, such as `unet.conv_in.kernel` or `backward.mid_block.[...].attn1.to_v.kernel`, and
            its shape to its sharding; default: all on the default device.
        offload: keep the weights in host memory, as numpy arrays: a network is on the device only while it is used.

    Returns:
        The three networks with their weights, the configuration, and the backward direction's tensors.

    Raises:
        InputError: no model at `path`, missing or damaged parts, another format version, backward weights that don't fit, or
            both `offload` and `shardings`.
    """
    check_dtype(dtype)
    if offload and shardings is not None:
        raise InputError("offload: the weights stay in host memory, but shardings places them: expected only one of the two")
    source = find_model(path)
    shardings = in_host_memory if offload else shardings
    return source.load(dtype=dtype, backward=backward, backward_base=backward_base, shardings=shardings)


def find_model(model: str | Path | None, method: str = "dual") -> ModelSource:
    """Find a model and read its configuration; no weights are read.

    Args:
        model: a checkpoint's folder, a folder in diffusers layout, or `"embedded"`; None is the embedded model too.
        method: a key of `svdjax.sampling.methods.METHODS`; selects the backward weights of the embedded model.

    Raises:
        InputError: no such folder, no model in it, or a damaged configuration.
    """
    if model is None or is_embedded(model):
        embedded_model.check_installed()
        opened = model_folder.open_model(embedded_model.SOURCE)
        return DiffusersFolder(
            name="the embedded model",
            folder=embedded_model.SOURCE,
            config=opened.config,
            defaults=embedded_model.DEFAULTS,
            opened=opened,
            backward=embedded_model.backward_folder(method),
            dtype=compute_dtype(),
        )
    folder = Path(model)
    expected = f"a diffusers folder or {MODEL.described}"
    check_input_folder(folder, expected)
    if is_diffusers_folder(folder):
        opened, backward = model_folder.open_model(folder), folder / EXPORTED_BACKWARD
        return DiffusersFolder(
            name=folder.resolve().name,
            folder=folder,
            config=opened.config,
            opened=opened,
            backward=backward if os.path.lexists(backward) else None,
        )
    if not os.path.lexists(folder / "config.json"):
        raise wrong_folder(folder, expected, "has no model_index.json, unet/config.json or config.json")
    info = checkpoint.read_info(folder)
    return Checkpoint(name=folder.resolve().name, folder=folder, config=info.config, info=info)


def is_embedded(model: str | Path) -> bool:
    """Whether `model` is the name of the embedded model."""
    return str(model) == embedded_model.NAME


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder has the layout of a diffusers pipeline; checkpoints don't."""
    return os.path.isfile(folder / "model_index.json") or os.path.isfile(folder / "unet" / "config.json")


def checkpoint_folder(model: str | Path) -> Path:
    """The folder of a checkpoint, for training; the embedded model is converted into the user's cache.

    Raises:
        InputError: a folder in diffusers layout, which has to be converted first.
    """
    if is_embedded(model):
        return embedded_model.checkpoint()
    folder = Path(model)
    if is_diffusers_folder(folder):
        raise InputError(
            f"{folder}: is a diffusers folder, expected a checkpoint; run python -m convert.svd_to_flax {folder} OUT"
        )
    return folder
