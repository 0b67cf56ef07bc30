"""The embedded model: a tiny SVD, trained on the embedded world and shipped in `svdjax/embedded` in diffusers layout."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path

from svdjax.checkpoints.checkpoint import is_model, read_info
from svdjax.diffusers_layout.importing import Conversion, convert
from svdjax.errors import InputError
from svdjax.runtime.compilation_cache import user_folder
from svdjax.version import __version__

NAME = "embedded"  # for `svdjax.load` and `--model`; a folder with the same name is given as `./embedded`
SOURCE = Path(__file__).parent / "embedded"
DEFAULTS = {"steps": 10, "recurrence": 3}  # better than 50 steps without recurrence, and faster: docs/claims.md
# Shipped backward UNets, by sampling method; the other methods use none.
BACKWARD = {"dual": "backward", "no-rotation": "backward_no_rotation"}


def backward_folder(method: str = "dual") -> Path:
    """Folder of a method's backward UNet in diffusers layout; for methods that use none, that of `dual`.

    Args:
        method: a key of `svdjax.sampling.methods.METHODS`.
    """
    return SOURCE / BACKWARD.get(method, BACKWARD["dual"])


def check_installed() -> None:
    """Raise `InputError` if the installation lacks the embedded model's files."""
    if not (SOURCE / "model_index.json").exists():
        raise InputError("this installation has no embedded model: give --model, a checkpoint or a diffusers folder")


def checkpoint(method: str = "dual") -> Path:
    """Folder of the embedded model as a checkpoint, for training; it is converted into the user's cache on first use.

    Args:
        method: the sampling method; the checkpoint has its backward weights (see `backward_folder`).

    Raises:
        InputError: the model isn't installed, or the cache folder can't be written.
    """
    check_installed()
    parent = user_folder()
    folder = parent / f"embedded-{_digest(BACKWARD.get(method, BACKWARD['dual']))}"
    with contextlib.suppress(InputError):
        read_info(folder)
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{parent}: can't be created: {e.strerror}: set XDG_CACHE_HOME to another folder") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # no summary of the conversion
            convert(Conversion(source=SOURCE, out=folder, backward=backward_folder(method), dtype="float16", overwrite=True))
    except InputError:
        if not is_model(folder):  # another process may have converted it meanwhile
            raise
    return folder


def _digest(backward: str) -> str:
    """A hash of the shipped files that a checkpoint is made from."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(SOURCE.rglob("*")):
        used = backward if path.parent.name in BACKWARD.values() else path.parent.name
        if path.suffix in (".json", ".safetensors") and path.parent.name == used:
            digest.update(os.fsencode(path.relative_to(SOURCE)) + path.read_bytes())
    return digest.hexdigest()[:12]
