"""Checks of a sampler run's arguments, before the long work."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from svdjax.errors import InputError, one_line
from svdjax.models.svd import SVD
from svdjax.sampling.draws import Draws, are_keys
from svdjax.scalars import whole_number


def check_model(model: Any) -> None:
    """Raise `InputError` unless `model` is a loaded model."""
    if not isinstance(model, SVD):
        raise InputError(f"model is a {type(model).__name__}, expected a model from svdjax.load")


def check_pair(model: SVD, first: np.ndarray, last: np.ndarray, names: tuple[str, str] = ("keyframe 1", "keyframe 2")) -> None:
    """Raise `InputError` unless both keyframes are uint8 (b, H, W, 3) of the same shape and of a size that the model takes."""
    check_image(model, names[0], first)
    check_image(model, names[1], last)
    if first.shape != last.shape:
        raise InputError(f"{names[0]} and {names[1]} have shapes {first.shape[1:]} and {last.shape[1:]}, expected the same")


def check_image(model: SVD, name: str, image: np.ndarray) -> None:
    """Raise `InputError` unless an image is uint8 (b, H, W, 3) of a size that the model takes; `name` is for the message."""
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        raise InputError(f"{name} is {image.dtype} {image.shape[1:]}, expected uint8 (H, W, 3)")
    if len(image) == 0:
        raise InputError(f"{name} is an empty batch, expected at least one image")
    height, width = image.shape[1:3]
    multiple = model.config.size_multiple
    if height % multiple or width % multiple or 0 in (height, width):
        raise InputError(f"{name} is {width}x{height}, expected multiples of {multiple} (svdjax.media.fit.fit resizes images)")


def check_progress(progress: object) -> None:
    """Raise `InputError` unless `progress` is None or can be called."""
    if progress is not None and not callable(progress):
        raise InputError(f"progress is a {type(progress).__name__}, expected a function of (done, total), or None")


def decode_chunk_of(value: Any, name: str = "decode_chunk") -> int | None:
    """The number of frames decoded at a time as a Python int; None is all frames.

    Raises:
        InputError: not a whole number of at least 1, or None.
    """
    chunk = whole_number(value)
    if value is not None and (chunk is None or chunk < 1):
        raise InputError(f"{name} is {one_line(repr(value), 60)}, expected a whole number of at least 1, or None")
    return chunk


def check_draws(
    draws: Any,
    batch: int,
    image_shape: tuple[int, ...],
    latent_shape: tuple[int, ...],
    recurrences: int,
    raised: int | None = None,
) -> None:
    """Raise `InputError` unless draws fit a run.

    Args:
        draws: None, or `Draws`.
        batch: number of pairs.
        image_shape: (H, W, 3).
        latent_shape: (f, h, w, c).
        recurrences: number of recurrence noises that the run uses.
        raised: frames of a clip at a raised frame rate; None if it is not raised.
    """
    if draws is None:
        return
    if not isinstance(draws, Draws):
        raise InputError(f"draws is a {type(draws).__name__}, expected svdjax.Draws, or None")
    expected = {"augmentation": (batch, *image_shape), "initial": (batch, *latent_shape)}
    for name, shape in expected.items():
        if jnp.shape(getattr(draws, name)) != shape:
            raise InputError(f"draws.{name} has shape {jnp.shape(getattr(draws, name))}, expected {shape}")
    check_recurrence(draws, recurrences)
    if raised is not None and (draws.rate is None or not are_keys(draws.rate)):
        shape = batch, raised, *latent_shape[1:]
        found = "is None" if draws.rate is None else f"has shape {jnp.shape(draws.rate)}"
        if draws.rate is None or jnp.shape(draws.rate) != shape:
            raise InputError(f"draws.rate {found}, expected shape {shape}, or keys")


def check_recurrence(draws: Draws, recurrences: int) -> None:
    """Raise `InputError` unless draws have the noise of a run with `recurrences` recurrence noises, or keys for it."""
    if recurrences and not are_keys(draws.recurrence):
        shape, of_each = jnp.shape(draws.recurrence), jnp.shape(draws.initial)
        if shape[1:] != of_each or shape[0] < recurrences:
            raise InputError(f"draws.recurrence has shape {shape}, expected {(recurrences, *of_each)}, or keys")
