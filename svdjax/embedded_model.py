"""The embedded model: a tiny SVD trained on the embedded world, shipped in `svdjax/embedded` as diffusers lays it out.

It is converted as any other model is, once, into the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path

import svdjax
from svdjax.checkpoints.checkpoint import is_model, read_info
from svdjax.diffusers_layout.importing import Conversion, convert
from svdjax.errors import InputError
from svdjax.runtime.compilation_cache import user_folder

SOURCE = Path(svdjax.__file__).parent / "embedded"
NAME = "the embedded model"
SETTINGS = {"steps": 10, "recurrence": 3}  # its defaults: better than 50 steps at half the cost, docs/claims.md
# Backward weights of each kind of fine-tuning, by the method that takes them; the others take none.
BACKWARD = {"dual": "backward", "no-rotation": "backward_no_rotation"}


def checkpoint(method: str = "dual") -> Path:
    """The folder of the embedded model's checkpoint, for `svdjax.load`; converted first where it isn't yet.

    Args:
        method: a key of `svdjax.sampling.methods.METHODS`, whose backward weights the checkpoint has.

    Raises:
        InputError: the cache folder can't be written.
    """
    if not (SOURCE / "model_index.json").exists():
        raise InputError("--model is missing, and this installation has no embedded model: give one of convert.svd_to_flax")
    backward = BACKWARD.get(method, BACKWARD["dual"])
    parent = user_folder()
    folder = parent / f"embedded-{_digest(backward)}"
    with contextlib.suppress(InputError):
        read_info(folder)
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(
            f"{parent}: can't be made: {e.strerror}; the environment's XDG_CACHE_HOME names another cache"
        ) from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what a converter tells is of no use here
            convert(Conversion(SOURCE, folder, SOURCE / backward, dtype="float16", overwrite=True))
    except InputError:
        if not is_model(folder):  # which it is where another process was quicker
            raise
    return folder


def is_embedded(path: Path) -> bool:
    """Whether a checkpoint is one that `checkpoint` made."""
    return path.parent == user_folder() and path.name.startswith("embedded-")


def _digest(backward: str) -> str:
    """Of the shipped files that a checkpoint is made from."""
    digest = hashlib.sha256(svdjax.__version__.encode())
    for path in sorted(SOURCE.rglob("*")):
        used = backward if path.parent.name in BACKWARD.values() else path.parent.name
        if path.suffix in (".json", ".safetensors") and path.parent.name == used:
            digest.update(os.fsencode(path.relative_to(SOURCE)) + path.read_bytes())
    return digest.hexdigest()[:12]
