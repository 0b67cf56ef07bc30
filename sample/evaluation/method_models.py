"""The model and the backward weights of each method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdjax.checkpoints import delta
from svdjax.checkpoints.safetensors_reader import sha256
from svdjax.data.sources import fingerprint
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.model_sources import DiffusersFolder, ModelSource, trained_kinds_of
from svdjax.models.backward import QUERIES
from svdjax.sampling.methods import FINE_TUNED


@dataclass(frozen=True)
class MethodModel:
    """The model of one method.

    Attributes:
        source: where its weights and configuration are read from.
        backward: folder of backward weights to use instead of the model's own, if any.
    """

    source: ModelSource
    backward: Path | None = None

    def fingerprint(self) -> str:
        """Hash of all weights and the configuration."""
        own = self.source.backward if isinstance(self.source, DiffusersFolder) else None  # a checkpoint's hashes include it
        folder = self.backward or own
        backward = None if folder is None else _backward_content(folder)
        return fingerprint([self.source.hashes(), self.source.config.to_json(), backward])


def choose_model(method: str, model: str | None, backward_folders: Sequence[Path]) -> MethodModel:
    """The model of a method, with backward weights from `backward_folders` or else its own.

    Args:
        method: a key of `svdjax.sampling.methods.METHODS`, or `reconstruction`, which needs only the VAE.
        model: see `svdjax.loading.find_model`.
        backward_folders: folders of backward weights: at most one trained with rotated maps, and one without.

    Raises:
        InputError: no model, no backward weights for the method, or two folders of the same kind.
    """
    source = find_model(model, method)
    if method not in FINE_TUNED:
        return MethodModel(source)
    matching = [folder for folder in backward_folders if _trained_for(method, trained_kinds_of(folder))]
    kind = "without" if method == "no-rotation" else "with"
    if len(matching) > 1:
        raise InputError(
            f"--backward: {matching[0]} and {matching[1]} were both trained {kind} rotated maps, expected one folder per kind"
        )
    if not matching and not _trained_for(method, source.trained_kinds() or ()):
        raise InputError(
            f"--methods: {method} needs backward weights trained {kind} rotated maps, but neither {source.folder} nor "
            "--backward has them"
        )
    return MethodModel(source, matching[0] if matching else None)


def _trained_for(method: str, kinds: Collection[str]) -> bool:
    """Whether backward weights belong to a fine-tuned method: queries are trained only without rotated maps."""
    return bool(kinds) and bool(set(kinds) & set(QUERIES)) is (method == "no-rotation")


def _backward_content(folder: Path) -> list[Any]:
    if delta.holds_differences(folder):
        return delta.content(folder)
    return [[path.name, sha256(path)] for path in sorted(folder.glob("*.safetensors"))]
