"""Find and load a model: the embedded model, a converted checkpoint, or a diffusers folder."""

from __future__ import annotations

import dataclasses
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdjax import embedded_model
from svdjax.checkpoints import checkpoint, delta
from svdjax.checkpoints.checkpoint import Info
from svdjax.checkpoints.manifest import BACKWARD, MODEL, has_format
from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.checkpoints.recognize import check_input_folder, wrong_folder
from svdjax.config import SVDConfig
from svdjax.diffusers_layout import direct, model_folder
from svdjax.diffusers_layout.backward_weights import marked_kinds
from svdjax.diffusers_layout.safetensors_reader import sha256
from svdjax.errors import InputError
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

    Returns:
        The three networks with their weights, the configuration, and the backward direction's tensors.

    Raises:
        InputError: no model at `path`, missing or damaged parts, another format version, or backward weights that don't fit.
    """
    check_dtype(dtype)
    source = find_model(path)
    return source.load(dtype=dtype, backward=backward, backward_base=backward_base, shardings=shardings)


@dataclass(frozen=True, kw_only=True)
class ModelSource(ABC):
    """A model on disk. Its configuration has been read, its weights have not.

    Attributes:
        name: for messages and metadata.
        folder: the folder of its files.
        config: shapes and noise schedule.
        defaults: its own defaults for fields of `Settings`.
    """

    name: str
    folder: Path
    config: SVDConfig
    defaults: Mapping[str, int] = field(default_factory=dict)

    @abstractmethod
    def trained_kinds(self) -> Collection[str] | None:
        """Kinds of tensors in its own backward weights (`svdjax.models.backward`); None if it has none."""

    @abstractmethod
    def hashes(self) -> Mapping[str, str]:
        """Hashes that identify its weights; see `svdjax.checkpoints.checkpoint.Info`."""

    @abstractmethod
    def load(
        self,
        *,
        dtype: Any = None,
        backward: str | Path | None = None,
        backward_base: str | Path | None = None,
        shardings: Shardings | None = None,
    ) -> SVD:
        """Load it; see `svdjax.load`."""

    def transfer_note(self, backward: Path | None) -> str | None:
        """A line for the user if backward weights were trained from another UNet; None if not, or if it is not known."""
        if backward is None or not has_format(backward, BACKWARD):
            return None
        return delta.transfer_note(backward, self.hashes())


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ModelSource):
    """A checkpoint that `convert.svd_to_flax` or `train.base` wrote."""

    info: Info

    def trained_kinds(self) -> Collection[str] | None:
        return None if self.info.backward is None else self.info.backward["trained"]

    def hashes(self) -> Mapping[str, str]:
        return self.info.sources

    def load(
        self,
        *,
        dtype: Any = None,
        backward: str | Path | None = None,
        backward_base: str | Path | None = None,
        shardings: Shardings | None = None,
    ) -> SVD:
        if backward_base is not None:
            raise InputError(f"{self.folder}: is a checkpoint, backward_base needs a diffusers folder (or convert.svd_to_flax)")
        return checkpoint.load(self.folder, dtype=dtype, backward=backward, shardings=shardings)


@dataclass(frozen=True, kw_only=True)
class DiffusersFolder(ModelSource):
    """A folder in diffusers layout.

    Attributes:
        opened: its configuration files and the headers of its weights.
        backward: its own backward UNet in diffusers layout, if it has one.
        dtype: default dtype of `load`; None is the stored dtype.
    """

    opened: model_folder.Model
    backward: Path | None = None
    dtype: str | None = None

    def trained_kinds(self) -> Collection[str] | None:
        return None if self.backward is None else trained_kinds_of(self.backward)

    def hashes(self) -> Mapping[str, str]:
        return _hashes(self.folder, tuple(path for weights in self.opened.weights.values() for path in weights.paths))

    def load(
        self,
        *,
        dtype: Any = None,
        backward: str | Path | None = None,
        backward_base: str | Path | None = None,
        shardings: Shardings | None = None,
    ) -> SVD:
        own = self.backward if backward is None else Path(backward)
        base = None if backward_base is None else Path(backward_base)
        model = direct.load_folder(
            self.opened, dtype=dtype or self.dtype, backward=own, backward_base=base, shardings=shardings
        )
        return dataclasses.replace(model, defaults=self.defaults)


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


def trained_kinds_of(backward: Path) -> Collection[str]:
    """Kinds of tensors in a folder of backward weights (`svdjax.models.backward`).

    Args:
        backward: a folder that `train.backward` wrote, or a UNet in diffusers layout. If that UNet's `config.json` names no
            kinds, they are `VALUES`.

    Raises:
        InputError: it is neither.
    """
    if (kinds := marked_kinds(backward)) is not None:
        return kinds
    return delta.read_backward_info(backward)["trained"]


@functools.cache
def _hashes(folder: Path, paths: tuple[Path, ...]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
