"""JAX's persistent compilation cache in the user's cache folder: compiling a full-size UNet takes minutes."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def user_folder() -> Path:
    """svdjax's cache folder, for files that can be created again: `svdjax` in `XDG_CACHE_HOME` (default `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdjax"


def enable() -> Path | None:
    """Store compiled programs on disk for later runs.

    Returns:
        The folder: that of JAX's own variable `JAX_COMPILATION_CACHE_DIR` if it is set, otherwise `user_folder()`. None if it
        can't be created.
    """
    configured: str | None = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]: defined at run time
    if configured:
        return Path(configured)
    folder = user_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
