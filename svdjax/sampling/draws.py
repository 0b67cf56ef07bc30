"""Every random draw of a run: made from one seed, or given as arrays so that another run can be replayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.errors import InputError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Draws:
    """Unit-variance normal draws for a batch of b pairs.

    Attributes:
        augmentation: (b, H, W, 3), added to both keyframes of a pair before the VAE.
        initial: (b, f, h, w, c), the latents before they are scaled to the first noise level.
        recurrence: noise of the redone steps. Given: (n, b, f, h, w, c) in the order it is used. Drawn: (b,) keys, from
            which noise k is made when it is needed, so that no run holds more than one.
    """

    augmentation: Array
    initial: Array
    recurrence: Array

    def recurrence_noise(self, k: Array) -> Array:
        """Recurrence noise number k, (b, f, h, w, c)."""
        if not jnp.issubdtype(self.recurrence.dtype, jax.dtypes.prng_key):
            return self.recurrence[k]
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.recurrence, k)
        return _normal(keys, self.initial.shape[1:], self.initial.dtype)


def _normal(keys: Array, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def draw(seeds: list[int], image_shape: tuple[int, ...], latent_shape: tuple[int, ...]) -> Draws:
    """Draws for one pair a seed; a pair's draws depend on its own seed alone, not on the batch it is in.

    Args:
        seeds: b whole numbers.
        image_shape: (H, W, 3).
        latent_shape: (f, h, w, c).
    """
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(jnp.asarray(seeds, jnp.uint32))
    return Draws(_normal(keys[:, 0], image_shape, jnp.float32), _normal(keys[:, 1], latent_shape, jnp.float32), keys[:, 2])


def load_draws(path: str | Path, image_shape: tuple[int, ...], latent_shape: tuple[int, ...], recurrences: int) -> Draws:
    """Draws for one pair from an .npz file: `augmentation`, `initial` and, if any step is redone, `recurrence`.

    Args:
        path: the file; its arrays have no batch axis, `recurrence` is (n, f, h, w, c).
        image_shape: (H, W, 3) of the fitted keyframes.
        latent_shape: (f, h, w, c).
        recurrences: how many noises the run uses.

    Raises:
        InputError: no such file, not an .npz, an array missing, unknown, not finite or of another shape.
    """
    expected = {"augmentation": image_shape, "initial": latent_shape, "recurrence": (recurrences, *latent_shape)}
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise ValueError("a single array")
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an .npz of noise") from None
    except Exception as e:
        raise InputError(f"{path}: not a readable .npz file ({e})".splitlines()[0]) from None
    for name in arrays:
        if name not in expected:
            raise InputError(f"{path}: unknown array {name!r}, expected {', '.join(expected)}")
    if recurrences == 0 and arrays.get("recurrence", np.empty(0)).size == 0:
        arrays["recurrence"] = np.zeros(expected["recurrence"], np.float32)
    for name, shape in expected.items():
        if name not in arrays:
            raise InputError(f"{path}: no array {name!r}, expected one of shape {shape}")
        found = arrays[name]
        if found.shape != shape:
            raise InputError(f"{path}: {name} has shape {found.shape}, expected {shape}")
        if not np.issubdtype(found.dtype, np.floating) or not np.isfinite(found).all():
            raise InputError(f"{path}: {name} holds values that are not finite numbers")
    augmentation, initial, recurrence = (jnp.asarray(arrays[name], jnp.float32) for name in expected)
    return Draws(augmentation[None], initial[None], recurrence[:, None])
