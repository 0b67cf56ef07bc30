"""Kinds of GPU kernels, by the operations in them."""

from __future__ import annotations

from collections.abc import Set

# The kind of a kernel is that of the first of these operations in it; other kernels are elementwise.
_KINDS = {
    "dot": "matrix product",
    "convolution": "convolution",
    "sort": "sort",
    "scatter": "scatter",
    "reduce": "reduction",
    "reduce-window": "reduction",
    "dynamic-update-slice": "update in place",
    "concatenate": "concatenation",
    "gather": "gather",
    "transpose": "transposition",
    "reverse": "transposition",
    "copy": "copy",
}
_LIBRARIES = {
    "fmha": "attention",
    "conv": "convolution",
    "cublas": "matrix product",
    "gemm": "matrix product",
    "triton": "Pallas kernel",
    "mosaic": "Pallas kernel",
}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


def kind_of(opcodes: Set[str]) -> str:
    """The kind of a kernel with these operations."""
    return next((kind for opcode, kind in _KINDS.items() if opcode in opcodes), "elementwise")


def kind_of_library_call(target: str) -> str:
    """The kind of a custom call, from the name of its target."""
    return next((kind for mark, kind in _LIBRARIES.items() if mark in target.lower()), target)
