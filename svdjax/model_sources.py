"""Kinds of models on disk: a checkpoint, and PyTorch's files: a folder in diffusers layout, or a single file."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdjax.checkpoints import checkpoint, delta
from svdjax.checkpoints.checkpoint import Info
from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.config import SVDConfig
from svdjax.diffusers_layout import direct, model_folder
from svdjax.diffusers_layout.backward_weights import marked_kinds
from svdjax.errors import InputError
from svdjax.models.svd import SVD


@dataclass(frozen=True, kw_only=True)
class ModelSource(ABC):
    """A model on disk. Its configuration has been read, its weights have not.

    Attributes:
        name: for messages and metadata.
        folder: the folder of its files, or its only file.
        config: shapes and noise schedule.
        defaults: its own defaults for fields of `Settings`.
        notes: lines to show to the user: what was found.
    """

    name: str
    folder: Path
    config: SVDConfig
    defaults: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
        if backward is None or not delta.holds_differences(backward):
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
    """A model in PyTorch's files: a folder in diffusers layout, or a single file (`svdjax.original_layout`).

    Attributes:
        opened: its configuration and the headers of its weights.
        backward: its own backward UNet in diffusers layout, if it has one.
        dtype: default dtype of `load`; None is the stored dtype.
    """

    opened: model_folder.Model
    backward: Path | None = None
    dtype: str | None = None

    def trained_kinds(self) -> Collection[str] | None:
        return None if self.backward is None else trained_kinds_of(self.backward)

    def hashes(self) -> Mapping[str, str]:
        return self.opened.hashes()

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


def trained_kinds_of(backward: Path) -> Collection[str]:
    """Kinds of tensors in backward weights (`svdjax.models.backward`).

    Args:
        backward: what `svdjax.checkpoints.delta` reads, or a UNet in diffusers layout. If that UNet's `config.json` names no
            kinds, they are `VALUES`.

    Raises:
        InputError: it is neither.
    """
    if (kinds := marked_kinds(backward)) is not None:
        return kinds
    return delta.read_backward_info(backward)["trained"]
