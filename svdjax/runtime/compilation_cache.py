"""JAX's persistent compilation cache in the user's own cache folder: a full-size UNet takes minutes to compile, once."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def user_folder() -> Path:
    """Where what can be made again is kept: `svdjax` under `XDG_CACHE_HOME` (`~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdjax"


def enable() -> Path | None:
    """Keep compiled programs between runs. Returns the folder, or None where it can't be made.

    `JAX_COMPILATION_CACHE_DIR`, JAX's own variable, is left alone if set; otherwise it is `user_folder()`.
    """
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    folder = user_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
