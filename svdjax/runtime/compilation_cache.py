"""JAX's persistent compilation cache in the user's cache folder: compiling a full-size UNet takes minutes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

from svdjax.errors import InputError
from svdjax.runtime.output_paths import check_writable


def user_folder() -> Path | None:
    """svdjax's cache folder, for files that can be created again: `svdjax` in `XDG_CACHE_HOME` (default `~/.cache`).

    None if the user has no home folder, as in a container with `HOME` unset and a user id without an account.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):  # others are to be ignored, says the XDG base directory specification
        return Path(configured) / "svdjax"
    try:
        return Path.home() / ".cache" / "svdjax"
    except RuntimeError:
        return None


def writable_user_folder() -> Path:
    """`user_folder()`, created if it doesn't exist.

    Raises:
        InputError: there is none, or it can't be written.
    """
    folder = user_folder()
    if folder is None:
        raise InputError("no cache folder: HOME is not set, and this user id has no account; set XDG_CACHE_HOME to a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        reason = e.strerror or type(e).__name__
        raise InputError(f"cache folder {folder}: can't be created: {reason}; set XDG_CACHE_HOME to another folder") from None
    check_writable(folder, f"cache folder {folder}")
    return folder


def enable() -> Path | None:
    """Store compiled programs on disk for later runs.

    Returns:
        The folder: that of JAX's own variable `JAX_COMPILATION_CACHE_DIR` if it is set, otherwise `user_folder()`. None if it
        can't be written; a note on standard error says so.
    """
    configured: str | None = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]: defined at run time
    if configured:
        return Path(configured)
    try:
        folder = writable_user_folder()
    except InputError as e:
        print(f"note: compiled programs are not kept for later runs: {e}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
