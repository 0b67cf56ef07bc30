"""Find and load a model: the embedded model, a converted checkpoint, a diffusers folder, a single file, a name on the hub."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from svdjax import embedded_model, hub
from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.manifest import MODEL
from svdjax.checkpoints.orbax_trees import Shardings, in_host_memory
from svdjax.checkpoints.recognize import check_input_folder, hub_snapshot, only_file, wrong_folder
from svdjax.diffusers_layout import model_folder
from svdjax.errors import InputError
from svdjax.model_sources import Checkpoint, DiffusersFolder, ModelSource
from svdjax.models.svd import SVD
from svdjax.original_layout.single_file import open_file
from svdjax.original_layout.unet_file import open_unet_weights
from svdjax.parallel import divided, sampling_mesh
from svdjax.parallel.sampling_mesh import Spec
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
    mesh: Spec | None = None,
) -> SVD:
    """Load Stable Video Diffusion.

    Args:
        path: a checkpoint that `convert.svd_to_flax` or `train.base` wrote; a folder in diffusers layout; one file in
            Stability's layout, such as `svd_xt.safetensors`; a name on the Hugging Face hub, such as
            `stabilityai/stable-video-diffusion-img2vid-xt`, unless it exists as a path; a model's folder in the hub's cache;
            or `"embedded"`, the toy model of the package (a folder of that name is `"./embedded"`).
        dtype: dtype of computation and parameters. Default: the stored dtype; for the embedded model float32 on a CPU, bfloat16
            elsewhere. The VAE has at least float32 if its configuration sets `force_upcast`, as SVD's does.
        backward: backward weights to use instead of the model's own. Either a folder that `train.backward` wrote: it holds
            differences, which are added to this model's UNet, so they may come from another UNet of the same shapes, also with
            another `num_frames`; `convert.flax_to_svd --only-trained` writes them as one file, which is read too. Or, if `path`
            is in PyTorch's files, a fine-tuned UNet in diffusers layout.
        backward_base: the UNet in diffusers layout that the UNet `backward` was fine-tuned from, if it is not this model's.
        shardings: maps the name of a tensor, such as `unet.conv_in.kernel` or `backward.mid_block.[...].attn1.to_v.kernel`, and
            its shape to its sharding; default: all on the default device.
        offload: keep the weights in host memory, as numpy arrays: a network is on the device only while it is used.
        mesh: devices that `interpolate`, `animate` and `sample` divide the work over, such as `"guidance=2,columns=4"`: `data`
            divides pairs of keyframes; `guidance=2` predictions without and with conditioning; `rows` and `columns` every
            frame; `fsdp` the storage of weights, and pairs. A text or sizes are for the devices of this process, and -1 stands
            for the remaining ones. A `jax.sharding.Mesh` may have the devices of several connected processes; then all of them
            make the same calls. Default: one device.

    Returns:
        The three networks with their weights, the configuration, and the backward direction's tensors.

    Raises:
        InputError: no model at `path`, missing or damaged parts, another format version, backward weights that don't fit, or
            two of `offload`, `shardings` and `mesh`, or a mesh that doesn't fit the devices.
    """
    check_dtype(dtype)
    if mesh is not None:
        if offload or shardings is not None:
            raise InputError("mesh: it places the weights, as offload and shardings do: expected only one of the three")
        mesh = sampling_mesh.sampling_mesh(mesh)
        divided.connect(mesh)
        shardings = sampling_mesh.shardings(mesh)
    if offload and shardings is not None:
        raise InputError("offload: the weights stay in host memory, but shardings places them: expected only one of the two")
    source = find_model(path)
    shardings = in_host_memory if offload else shardings
    return source.load(dtype=dtype, backward=backward, backward_base=backward_base, shardings=shardings)


def find_model(model: str | Path | None, method: str = "dual") -> ModelSource:
    """Find a model and read its configuration; no weights are read.

    Args:
        model: see `load`; None is the embedded model.
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
    path = locate(model)
    if is_single_file(path):
        opened = open_file(path)
        keep = f"python -m convert.svd_to_flax {path} OUT keeps it as a checkpoint, which loads faster"
        return DiffusersFolder(
            name=path.stem, folder=path, config=opened.config, opened=opened, notes=(*opened.notes[:1], keep)
        )
    expected = f"a diffusers folder, a single file of a model, or {MODEL.described}"
    check_input_folder(path, expected)
    if is_diffusers_folder(path):
        opened, backward = model_folder.open_model(path), path / EXPORTED_BACKWARD
        from_hub = hub.is_name(Path(model))
        return DiffusersFolder(
            name=str(model) if from_hub else path.resolve().name,
            folder=path,
            notes=(f"{model}: the model of the Hugging Face hub, in {path}",) if from_hub else (),
            config=opened.config,
            opened=opened,
            backward=backward if os.path.lexists(backward) else None,
        )
    if not os.path.lexists(path / "config.json"):
        raise wrong_folder(path, expected, "has no model_index.json, unet/config.json or config.json")
    info = checkpoint.read_info(path)
    return Checkpoint(name=path.resolve().name, folder=path, config=info.config, info=info)


def open_pytorch(model: Path, *, num_frames: int | None = None, unet: Path | None = None) -> model_folder.Model:
    """Open a model in PyTorch's files, for its conversion.

    Args:
        model: a folder in diffusers layout, a single file, or what else `locate` takes.
        num_frames: frames per clip of a single file, which its shapes don't tell.
        unet: weights of a UNet to use instead of the model's: see `svdjax.original_layout.unet_file`.

    Raises:
        InputError: see `find_model`; or `num_frames` for a folder, which has a configuration.
    """
    path = locate(model)
    if is_single_file(path):
        opened = open_file(path, num_frames)
    elif num_frames is not None:
        raise InputError(f"--num-frames: {path} has a configuration with its number of frames, expected a single file")
    else:
        opened = model_folder.open_model(path)
    if unet is None:
        return opened
    replaced = open_unet_weights(unet, opened.config)
    note = f"{replaced.where}: its UNet is used instead of {path}'s"
    return dataclasses.replace(opened, weights=opened.weights | {"unet": replaced}, notes=(*opened.notes, note))


def locate(model: str | Path) -> Path:
    """The folder or file of a model: the path itself, or what a name on the hub or a folder of its cache stands for.

    Raises:
        InputError: a name on the hub that can't be downloaded.
    """
    path = Path(model)
    if hub.is_name(path):
        path = hub.download(path)
    path = hub_snapshot(path) or path
    return only_file(path) or path


def is_single_file(path: Path) -> bool:
    """Whether a path is a file of weights, by its ending."""
    return path.suffix == ".safetensors" and os.path.isfile(path)


def is_embedded(model: str | Path) -> bool:
    """Whether `model` is the name of the embedded model."""
    return str(model) == embedded_model.NAME


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder has the layout of a diffusers pipeline; checkpoints don't."""
    return os.path.isfile(folder / "model_index.json") or os.path.isfile(folder / "unet" / "config.json")


def checkpoint_folder(model: str | Path) -> Path:
    """The folder of a checkpoint, for training; the embedded model is converted into the user's cache.

    Raises:
        InputError: a model in PyTorch's files, which has to be converted first.
    """
    if is_embedded(model):
        return embedded_model.checkpoint()
    path = Path(model)
    kind = "a diffusers folder" if is_diffusers_folder(path) else "a single file" if is_single_file(path) else None
    if hub.is_name(path) or hub_snapshot(path):
        kind = "a model of the Hugging Face hub"
    if kind is not None:
        raise InputError(f"{path}: is {kind}, expected a checkpoint; run python -m convert.svd_to_flax {path} OUT")
    return path
