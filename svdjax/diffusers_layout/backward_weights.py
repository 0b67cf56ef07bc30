"""The backward weights: temporal self-attention tensors of a fine-tuned UNet, carried over to the UNet being converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svdjax.config import UNetConfig
from svdjax.diffusers_layout import name_table
from svdjax.diffusers_layout.model_folder import open_unet
from svdjax.diffusers_layout.safetensors_reader import Weights
from svdjax.errors import InputError
from svdjax.models.backward import QUERIES, VALUES, expected_names, kind_of, trained_kinds


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned UNet and, where it is known, the one that it was tuned from; opened and checked, not read.

    `json_files` and `base_json` are the configurations that came with them.
    """

    weights: Weights
    json_file: Path
    base: Weights | None
    base_json: Path | None


@dataclass(frozen=True)
class Overlay:
    """Backward weights.

    Attributes:
        values: float32 arrays in our layout, by dotted name here (`svdjax.models.backward`).
        notes: what the user should know about them, one line each.
    """

    values: dict[str, np.ndarray]
    notes: tuple[str, ...]


def open_tuned(folder: Path, base: Path | None, config: UNetConfig, rows: Mapping[str, name_table.Row]) -> Tuned:
    """Open the UNets of `--backward` and `--backward-base` and hold their headers against the UNet being converted.

    Args:
        folder, base: a UNet's folder, or one that holds it as `unet/`. What was tuned may lack all other tensors.
        config: of the UNet being converted; only its number of frames may differ from theirs.
        rows: its table.

    Raises:
        InputError: files that can't be used, or another UNet.
    """
    weights, json_file = _open(folder, config, rows, trained_alone=True)
    base_weights, base_json = (None, None) if base is None else _open(base, config, rows)
    return Tuned(weights, json_file, base_weights, base_json)


def read_overlay(tuned: Tuned, source: Weights, rows: Mapping[str, name_table.Row], advance: Callable[[int], None]) -> Overlay:
    """The backward weights for the UNet being converted.

    With a base they are `source + (tuned - base)` in float32, without one the tuned values. Values, outputs and output biases
    are always taken. Queries and keys are taken if they were trained: if they differ from the base, or, without one, from
    `source` while nothing outside the temporal self-attentions does.

    Args:
        tuned: the fine-tuned UNet, and perhaps its base.
        source: the weights of the UNet being converted.
        rows: its table.
        advance: called with the bytes read of `tuned`.

    Raises:
        InputError: NaN or infinite values.
    """
    reference = source if tuned.base is None else tuned.base
    leaf_of = {row.torch_name: leaf for leaf, row in rows.items()}
    values: dict[str, np.ndarray] = {}
    changed = {"values": 0, "queries": 0, "others": 0}
    for name, array in tuned.weights.stream(advance):
        leaf = leaf_of.get(name)
        if leaf is None:  # named in mapping.IGNORED
            continue
        before = reference.read(name)
        differs = not _equal(array, before)
        kind = kind_of(leaf)
        if kind not in VALUES + QUERIES:
            changed["others"] += differs
            continue
        changed["queries" if kind in QUERIES else "values"] += differs
        value = array.astype(np.float32)
        if tuned.base is not None:
            value = source.read(name).astype(np.float32) + (value - before.astype(np.float32))
        values[leaf] = np.ascontiguousarray(rows[leaf].layout.to_flax(value))
    queries = changed["queries"] > 0 and (tuned.base is not None or not changed["others"])
    if not queries:
        values = {leaf: value for leaf, value in values.items() if not leaf.endswith(QUERIES)}
    unused = changed["others"] + (0 if queries else changed["queries"])
    return Overlay(values, tuple(_notes(tuned, reference, unused, bool(changed["values"] or queries))))


def _open(
    folder: Path, config: UNetConfig, rows: Mapping[str, name_table.Row], trained_alone: bool = False
) -> tuple[Weights, Path]:
    found, weights, path = open_unet(folder)
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(found, field.name)
        if field.name != "num_frames" and ours != theirs:
            raise InputError(f"{path}: {field.name} is {theirs}, the UNet being converted has {ours}: not the same UNet")
    given = [leaf for leaf, row in rows.items() if row.torch_name in weights.tensors]
    if trained_alone and given and all(kind_of(leaf) for leaf in given):
        rows = {leaf: rows[leaf] for leaf in expected_names(rows, {*VALUES, *trained_kinds(given)})}
    name_table.check("unet", rows, weights.tensors, str(weights.where))
    return weights, path


def _notes(tuned: Tuned, reference: Weights, unused: int, trained: bool) -> list[str]:
    notes = []
    if not trained:
        notes.append(f"{tuned.weights.where}: its temporal to_v and to_out are those of {reference.where}: nothing was trained")
    if unused:
        hint = "if it was tuned from another model, give that as --backward-base" if tuned.base is None else "is that its base?"
        notes.append(
            f"{tuned.weights.where}: other tensors that differ from {reference.where} are not used, {unused:,}: {hint}"
        )
    return notes


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tensors are the same in the narrower of their dtypes (of two equally wide ones, the second's)."""
    with np.errstate(over="ignore"):  # beyond the narrower one's range is simply different
        if a.dtype.itemsize < b.dtype.itemsize:
            b = b.astype(a.dtype)
        else:
            a = a.astype(b.dtype)
    return np.array_equal(a, b)
