"""The embedded model: a tiny SVD, trained on the embedded world and shipped in `svdjax/embedded` in diffusers layout."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

from svdjax.diffusers_layout.importing import Conversion, convert
from svdjax.errors import InputError
from svdjax.runtime.cached_folder import cached_folder
from svdjax.version import __version__

NAME = "embedded"  # for `svdjax.load` and `--model`; a folder with the same name is given as `./embedded`
SOURCE = Path(__file__).parent / "embedded"
# Better than more steps without recurrence, and than the average of the directions: docs/claims.md.
DEFAULTS: dict[str, Any] = {"steps": 10, "recurrence": 3, "fusion": "linear"}
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
    """Folder of the embedded model as a checkpoint, for training.

    It is converted into the user's cache on first use, and again if it is damaged there; without a cache, into a temporary
    folder.

    Args:
        method: the sampling method; the checkpoint has its backward weights (see `backward_folder`).

    Raises:
        InputError: the model isn't installed, or can't be converted.
    """
    check_installed()

    def make(folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # no summary of the conversion
            convert(Conversion(source=SOURCE, out=folder, backward=backward_folder(method), dtype="float16"))

    digest = _digest(BACKWARD.get(method, BACKWARD["dual"]))
    return cached_folder(f"embedded-{digest}", make, "the converted embedded model")


def _digest(backward: str) -> str:
    """A hash of the shipped files that a checkpoint is made from."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(SOURCE.rglob("*")):
        used = backward if path.parent.name in BACKWARD.values() else path.parent.name
        if path.suffix in (".json", ".safetensors") and path.parent.name == used:
            digest.update(os.fsencode(path.relative_to(SOURCE)) + path.read_bytes())
    return digest.hexdigest()[:12]
