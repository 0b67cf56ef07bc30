"""How the clip between two keyframes is made: the paper's method, and what the paper compares it with, all in one sampler."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jax import Array

from svdjax.errors import InputError
from svdjax.models.backward import NOWHERE, QUERIES, UP_BLOCKS, Backward

METHODS = {
    "dual": "both directions, the backward one fine-tuned and given the rotated forward maps",
    "trf": "both directions with the forward weights and their own maps (time reversal fusion)",
    "no-finetune": "both directions with the forward weights, rotated maps in the up blocks",
    "no-rotation": "both directions, the backward one fine-tuned without rotated maps (train.backward --no-rotation)",
    "forward": "the forward direction alone, from the first keyframe: SVD's image to video",
}
FINE_TUNED = ("dual", "no-rotation")


def backward_of(method: str, params: Mapping[str, Array] | None) -> Backward | None:
    """The backward half of a method, None for the forward direction alone.

    Args:
        method: a key of `METHODS`.
        params: the backward direction's own tensors, which `FINE_TUNED` methods need.

    Raises:
        InputError: an unknown method, or backward weights that are missing or of another method.
    """
    check(method, params)
    if method == "forward":
        return None
    if method in FINE_TUNED:
        assert params is not None
        return Backward(params) if method == "dual" else Backward(params, NOWHERE)
    return Backward({}, UP_BLOCKS if method == "no-finetune" else NOWHERE)


def check(method: str, names: Collection[str] | None) -> None:
    """Raise `InputError` unless backward weights are of the kind that a method needs.

    Args:
        method: a key of `METHODS`.
        names: of the tensors, or of their kinds (`svdjax.models.backward`); None where there are none.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r}: unknown, expected one of {', '.join(METHODS)}")
    if method not in FINE_TUNED:
        return
    if names is None:
        raise InputError(
            f"method {method}: the model has no backward weights, which it needs: convert with --backward DIR, or give "
            "--backward DIR (svdjax.load(path, backward=DIR))"
        )
    without_rotation = any(name.endswith(QUERIES) for name in names)
    if without_rotation is not (method == "no-rotation"):
        found = "without" if without_rotation else "with"
        expected = "without" if method == "no-rotation" else "with"
        raise InputError(f"method {method}: the backward weights were trained {found} rotated maps, expected {expected} them")
