"""Random draws of a sampler run: drawn from seeds, or loaded from a file to replay another run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.errors import InputError, one_line
from svdjax.scalars import whole_number

RATE_STREAM = 0x72617465  # distinguishes the noise of a raised frame rate from a seed's other draws


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draws:
    """Standard normal draws for a batch of b pairs.

    Attributes:
        augmentation: (b, H, W, 3), added to both keyframes of a pair before the VAE.
        initial: (b, f, h, w, c), the latents before they are scaled to the first noise level.
        recurrence: all noise that is added during the run, see `methods` for the order. Either the noise itself,
            (n, b, f, h, w, c) in the order of use, or (b,) keys: noise k is then drawn when it is needed, so that a run holds
            only one at a time.
        rate: noise of a clip at a raised frame rate, see `svdjax.frame_rate.sampling`. Either the noise itself,
            (b, rate * (f - 1) + 1, h, w, c), or (b,) keys. None if the rate is not raised.
    """

    augmentation: Array
    initial: Array
    recurrence: Array
    rate: Array | None = None

    def repeated(self, times: int) -> Draws:
        """The draws of `times` batches with the same noise."""
        return joined([self] * times)

    def recurrence_noise(self, k: Array) -> Array:
        """Recurrence noise k, counted from 0, (b, f, h, w, c)."""
        if not are_keys(self.recurrence):
            return self.recurrence[k]
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.recurrence, k)
        return _normal(keys, self.initial.shape[1:], self.initial.dtype)

    def rate_noise(self, frames: int) -> Array:
        """Noise of a clip of `frames` frames at a raised rate, (b, frames, h, w, c)."""
        if self.rate is None:
            raise ValueError("no noise for a raised frame rate")
        if not are_keys(self.rate):
            return self.rate
        return _normal(self.rate, (frames, *self.initial.shape[2:]), self.initial.dtype)


def are_keys(draws: Array) -> bool:
    """Whether an array holds keys, from which noise is drawn when it is needed."""
    return jnp.issubdtype(draws.dtype, jax.dtypes.prng_key)


def _normal(keys: Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def draw(seeds: Iterable[int], image_shape: Iterable[int], latent_shape: Iterable[int]) -> Draws:
    """Draw for one pair per seed. The draws of a pair depend only on its own seed, not on the batch.

    Args:
        seeds: b whole numbers from 0 to 2^32 - 1, as a list or an array.
        image_shape: (H, W, 3).
        latent_shape: (f, h, w, c).

    Raises:
        InputError: seeds that aren't such numbers.
    """
    given = list(seeds) if np.ndim(seeds) == 1 else []  # pyright: ignore[reportArgumentType]: any sequence has dimensions
    whole = [seed for seed in map(whole_number, given) if seed is not None and 0 <= seed < 2**32]
    if not given or len(whole) != len(given):
        raise InputError(f"seeds are {one_line(repr(seeds), 60)}, expected whole numbers from 0 to {2**32 - 1} in a list")
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(jnp.asarray(whole, jnp.uint32))
    augmentation = _normal(keys[:, 0], tuple(image_shape), jnp.float32)
    rate = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), RATE_STREAM))(jnp.asarray(whole, jnp.uint32))
    return Draws(augmentation, _normal(keys[:, 1], tuple(latent_shape), jnp.float32), keys[:, 2], rate)


def joined(draws: Sequence[Draws]) -> Draws:
    """The draws of several batches as those of one."""
    keys = are_keys(draws[0].recurrence)
    rates = [each.rate for each in draws if each.rate is not None]
    return Draws(
        jnp.concatenate([each.augmentation for each in draws]),
        jnp.concatenate([each.initial for each in draws]),
        jnp.concatenate([each.recurrence for each in draws], 0 if keys else 1),
        jnp.concatenate(rates) if len(rates) == len(draws) else None,
    )


def load_draws(
    path: str | Path, image_shape: tuple[int, ...], latent_shape: tuple[int, ...], recurrences: int, raised: int | None = None
) -> Draws:
    """Load the draws of one pair from an .npz file: `augmentation`, `initial`, and `recurrence` and `rate` if they are used.

    Args:
        path: the file. Its arrays have no batch axis; `recurrence` is (n, f, h, w, c).
        image_shape: (H, W, 3) of the fitted keyframes.
        latent_shape: (f, h, w, c).
        recurrences: number of recurrence noises that the run uses.
        raised: frames of the clip at a raised rate; None if it is not raised: an array `rate` is then ignored.

    Raises:
        InputError: no such file, not an .npz, or an array that is missing, unknown, not finite or of another shape.
    """
    expected = {"augmentation": image_shape, "initial": latent_shape, "recurrence": (recurrences, *latent_shape)}
    if raised is not None:
        expected["rate"] = raised, *latent_shape[1:]
    arrays = _read_npz(path)
    for name in arrays:
        if name not in (*expected, "rate"):
            raise InputError(f"{path}: unknown array {name!r}, expected {', '.join(expected)}")
    if recurrences == 0 and arrays.get("recurrence", np.empty(0)).size == 0:
        arrays["recurrence"] = np.zeros(expected["recurrence"], np.float32)
    for name, shape in expected.items():
        if name not in arrays:
            raise InputError(f"{path}: no array {name!r}, expected one of shape {shape}")
        array = arrays[name]
        if array.shape != shape:
            raise InputError(f"{path}: {name} has shape {array.shape}, expected {shape}")
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise InputError(f"{path}: {name} has values that are not finite numbers")
    augmentation, initial, recurrence, *rate = (jnp.asarray(arrays[name], jnp.float32) for name in expected)
    return Draws(augmentation[None], initial[None], recurrence[:, None], rate[0][None] if rate else None)


def _read_npz(path: str | Path) -> dict[str, np.ndarray]:
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a named pipe would be waited for
            raise ValueError("it is not a regular file")
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("a single array")
            return {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an .npz file of noise") from None
    except Exception as e:
        raise InputError(f"{path}: not a readable .npz file ({e})") from None
