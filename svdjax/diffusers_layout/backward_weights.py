"""The backward direction's tensors from a fine-tuned UNet in diffusers layout, transferred to the UNet being loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svdjax.checkpoints.manifest import check_backward_info
from svdjax.checkpoints.safetensors_reader import Weights
from svdjax.config import UNetConfig
from svdjax.diffusers_layout.model_folder import UNetFolder, open_unet
from svdjax.diffusers_layout.name_table import TensorRow, check_tensors
from svdjax.errors import InputError
from svdjax.models.backward import QUERIES, VALUES, names_of_kinds, tensor_kind, trained_kinds
from svdjax.runtime.input_files import read_json

MARK = "_svdjax"  # key in config.json that marks our folders; diffusers ignores keys that start with an underscore


@dataclass(frozen=True)
class TunedUNet:
    """A fine-tuned UNet, opened and checked; its weights are not read yet.

    Attributes:
        unet: the fine-tuned UNet; its files may hold only the trained tensors.
        base: the UNet that it was fine-tuned from; None if that is the UNet being loaded.
    """

    unet: UNetFolder
    base: UNetFolder | None


@dataclass(frozen=True)
class Overlay:
    """Backward weights.

    Attributes:
        values: float32 arrays with svdjax's axes, by dotted name in svdjax (`svdjax.models.backward`).
        notes: lines to show to the user.
    """

    values: dict[str, np.ndarray]
    notes: tuple[str, ...]


def open_tuned(folder: Path, base: Path | None, config: UNetConfig, rows: Mapping[str, TensorRow]) -> TunedUNet:
    """Open a fine-tuned UNet and its base, and compare them with the UNet being loaded.

    Args:
        folder: the fine-tuned UNet: its folder, or a folder that holds it as `unet/`. Tensors that were not trained may be
            missing.
        base: the UNet that it was fine-tuned from, in the same form; None if that is the UNet being loaded.
        config: configuration of the UNet being loaded; the others may differ from it only in num_frames.
        rows: the name table of the UNet being loaded.

    Raises:
        InputError: files that can't be used, or UNets that don't fit.
    """
    tuned = _open_same_unet(folder, config)
    stored = [leaf for leaf, row in rows.items() if row.torch_name in tuned.weights.tensors]
    expected = rows
    if stored and all(tensor_kind(leaf) for leaf in stored):  # only the trained tensors
        expected = {leaf: rows[leaf] for leaf in names_of_kinds(rows, {*VALUES, *trained_kinds(stored)})}
    check_tensors("unet", expected, tuned.weights.tensors, str(tuned.weights.where))
    if base is None:
        return TunedUNet(tuned, None)
    base_unet = _open_same_unet(base, config)
    check_tensors("unet", rows, base_unet.weights.tensors, str(base_unet.weights.where))
    return TunedUNet(tuned, base_unet)


def read_overlay(tuned: TunedUNet, source: Weights, rows: Mapping[str, TensorRow], advance: Callable[[int], object]) -> Overlay:
    """Read the backward weights for the UNet being loaded.

    With a base they are `source + (tuned - base)` in float32, without a base the tuned values. Values, outputs and output
    biases are always taken. Queries and keys are taken only if they were trained. With a base, this means that they differ
    from it. Without a base, they must differ from `source`, and all tensors outside the temporal self-attentions must be
    equal to those of `source`.

    Args:
        tuned: the fine-tuned UNet.
        source: the weights of the UNet being loaded.
        rows: the name table of the UNet being loaded.
        advance: called after each tensor of `tuned` with its number of bytes.

    Raises:
        InputError: NaN or infinite values.
    """
    reference = source if tuned.base is None else tuned.base.weights
    leaf_of = {row.torch_name: leaf for leaf, row in rows.items()}
    values: dict[str, np.ndarray] = {}
    changed = {"values": 0, "queries": 0, "others": 0}  # number of tensors that differ from the reference
    for name, array in tuned.unet.weights.stream(advance):
        leaf = leaf_of.get(name)
        if leaf is None:  # a name in `name_table.IGNORED`
            continue
        before = reference.read(name)
        kind = tensor_kind(leaf)
        group = "values" if kind in VALUES else "queries" if kind in QUERIES else "others"
        changed[group] += not _equal(array, before)
        if group == "others":
            continue
        value = array.astype(np.float32)
        if tuned.base is not None:
            value = source.read(name).astype(np.float32) + (value - before.astype(np.float32))
        values[leaf] = np.ascontiguousarray(rows[leaf].layout.to_flax(value))
    queries_trained = changed["queries"] > 0 and (tuned.base is not None or not changed["others"])
    if not queries_trained:
        values = {leaf: value for leaf, value in values.items() if not leaf.endswith(QUERIES)}
    unused = changed["others"] + (0 if queries_trained else changed["queries"])
    return Overlay(values, tuple(_notes(tuned, reference, unused, bool(changed["values"] or queries_trained))))


def marked_kinds(folder: Path) -> Collection[str] | None:
    """Kinds of tensors of a fine-tuned UNet, from the mark of `convert.flax_to_svd` in its `config.json`, or else `VALUES`.

    Returns:
        The kinds; None if the folder holds no UNet in diffusers layout.

    Raises:
        InputError: a damaged `config.json`.
    """
    file = folder / "config.json"
    if not os.path.isfile(file) or "_class_name" not in (config := read_json(file)):
        return None
    mark = config.get(MARK)
    info = mark.get("backward") if isinstance(mark, dict) else None
    try:
        return VALUES if info is None else check_backward_info(info)["trained"]
    except InputError as e:
        raise InputError(f"{file}: is damaged: {e}") from None


def _open_same_unet(folder: Path, config: UNetConfig) -> UNetFolder:
    """Open a UNet and check that its configuration equals `config`, except num_frames."""
    unet = open_unet(folder)
    for field in dataclasses.fields(config):
        value, expected = getattr(unet.config, field.name), getattr(config, field.name)
        if field.name != "num_frames" and value != expected:
            raise InputError(
                f"{unet.json_file}: {field.name} is {value}, expected {expected} as in the model's UNet: it is another UNet"
            )
    return unet


def _notes(tuned: TunedUNet, reference: Weights, unused: int, trained: bool) -> list[str]:
    where = tuned.unet.weights.where
    notes = []
    if not trained:
        notes.append(f"{where}: to_v and to_out are equal in {reference.where}: nothing was trained")
    if unused:
        hint = "if it was tuned from another model, give that as --backward-base" if tuned.base is None else "is that its base?"
        notes.append(f"{where}: {unused:,} other tensors that differ from {reference.where} are not used: {hint}")
    return notes


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors are equal in the narrower of their dtypes; if both are equally wide, in the dtype of `b`."""
    with np.errstate(over="ignore"):  # values beyond the narrower range simply differ
        if a.dtype.itemsize < b.dtype.itemsize:
            b = b.astype(a.dtype)
        else:
            a = a.astype(b.dtype)
    return np.array_equal(a, b)
