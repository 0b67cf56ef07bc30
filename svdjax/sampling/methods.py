"""Methods to sample the frames between two keyframes: the paper's, and those that the paper compares it with."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from jax import Array

from svdjax.errors import InputError
from svdjax.models.backward import NOWHERE, QUERIES, UP_BLOCKS, Backward

METHODS = {
    "dual": "both directions; the backward one is fine-tuned and uses the rotated forward maps",
    "trf": "both directions with the forward weights, each with its own maps (time reversal fusion)",
    "no-finetune": "both directions with the forward weights; the backward one uses rotated maps in the up blocks",
    "no-rotation": "both directions; the backward one is fine-tuned without rotated maps (train.backward --no-rotation)",
    "forward": "only the forward direction, from the first keyframe: SVD's image-to-video",
}
FINE_TUNED = ("dual", "no-rotation")


def backward_of(method: str, params: Mapping[str, Array] | None) -> Backward | None:
    """The backward half of a method; None if it has only the forward direction.

    Args:
        method: a key of `METHODS`.
        params: the tensors of the backward direction, needed by the methods in `FINE_TUNED`.

    Raises:
        InputError: an unknown method, or backward weights that are missing or were trained for another method.
    """
    check_backward_weights(method, params)
    if method == "forward":
        return None
    if method in FINE_TUNED:
        assert params is not None
        return Backward(params) if method == "dual" else Backward(params, NOWHERE)
    return Backward({}, UP_BLOCKS if method == "no-finetune" else NOWHERE)


def check_backward_weights(method: str, names: Collection[str] | None) -> None:
    """Raise `InputError` unless a method is known and the backward weights were trained for it.

    Args:
        method: a key of `METHODS`.
        names: names of the backward tensors, or their kinds (`svdjax.models.backward`); None if there are none.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"method {method!r}: unknown, expected one of {', '.join(METHODS)}")
    if method not in FINE_TUNED:
        return
    if names is None:
        raise InputError(
            f"method {method}: the model has no backward weights, but the method needs them: convert with --backward DIR, or "
            "give --backward DIR (svdjax.load(path, backward=DIR))"
        )
    without_rotation = any(name.endswith(QUERIES) for name in names)
    if without_rotation is not (method == "no-rotation"):
        actual, expected = ("without", "with") if without_rotation else ("with", "without")
        raise InputError(f"method {method}: the backward weights were trained {actual} rotated maps, expected {expected} them")
