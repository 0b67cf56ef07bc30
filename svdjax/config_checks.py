"""Checks of the values in configurations: types, ranges, numbers of entries."""

from __future__ import annotations

import dataclasses
from typing import Any

from svdjax.errors import InputError, one_line

NORM_GROUPS = 32  # groups of every GroupNorm of SVD, fixed in the PyTorch classes
# Least and greatest values of fields: networks are built from them before any weights are read, so that absurd values of a
# damaged file would take all memory or hours. All other numbers are whole, from 1 to `_MOST`.
_MOST = 2**20
_LIMITS = {
    **dict.fromkeys(("layers_per_block", "transformer_layers_per_block"), (1, 16)),
    "num_hidden_layers": (1, 128),
    "sample_size": (1, 2**14),
    **dict.fromkeys(("sigma_min", "sigma_max", "rho", "scaling_factor", "layer_norm_eps", "image_std"), (1e-12, 1e12)),
    "image_mean": (-1e12, 1e12),
}
_MOST_LEVELS = 8


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


def check_fields(config: Any) -> None:
    """Check the types and ranges of all fields of a configuration, by `_LIMITS` and by the types of their defaults."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kind = type(field.default[0] if isinstance(field.default, tuple) else field.default)
        for entry in value if isinstance(value, tuple) else (value,):
            _check_value(field.name, entry, kind, *_LIMITS.get(field.name, (1, _MOST)))


def _check_value(name: str, value: Any, kind: type, least: float, most: float) -> None:
    found = f"{name} is {one_line(repr(value), 80)}"
    if kind is int:
        right = isinstance(value, int) and not isinstance(value, bool)
        require(right and least <= value <= most, f"{found}, expected a whole number from {least} to {most}")
    elif kind is float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(right and least <= value <= most, f"{found}, expected a number from {least:g} to {most:g}")
    else:
        expected = {bool: "true or false", str: "text"}[kind]
        require(isinstance(value, kind), f"{found}, expected {expected}")


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """A list from a JSON file, or a tuple, as a tuple."""
    require(isinstance(value, (list, tuple)), f"{name} is {one_line(repr(value), 80)}, expected a list")
    return tuple(value)


def per_level(name: str, value: Any, levels: int) -> tuple[Any, ...]:
    """One value per resolution level: a scalar is repeated, a list must have `levels` entries."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
    require(len(values) == levels, f"{name} has {len(values)} entries, expected {levels}, as many as block_out_channels")
    return values


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Check the number of channels of each level."""
    require(0 < len(widths) <= _MOST_LEVELS, f"{name} has {len(widths)} entries, expected 1 to {_MOST_LEVELS}, one per level")
    for width in widths:
        require(
            isinstance(width, int) and 0 < width <= _MOST and width % NORM_GROUPS == 0,
            f"{name} has {one_line(repr(width), 80)}, expected a positive multiple of {NORM_GROUPS}, the groups of GroupNorm",
        )
