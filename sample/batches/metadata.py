"""Metadata of an interpolated video: how it was made, and whether a file was made in the same way."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from svdjax.errors import encodable
from svdjax.kernels.choice import XLA
from svdjax.media import video
from svdjax.model_sources import ModelSource
from svdjax.runtime.dtypes import compute_dtype
from svdjax.sampling import methods
from svdjax.sampling.draws import Draws
from svdjax.sampling.settings import Settings

KEYFRAMES_HASH = "keyframes_sha256"
NOISE_HASH = "noise_sha256"  # of given draws; files that were made before it was introduced lack it
_PLAN = "plan"  # depends on the device, and doesn't change the frames beyond rounding


def metadata_of(
    args: argparse.Namespace,
    model: ModelSource,
    method: str,
    settings: Settings,
    size: tuple[int, int],
    noise: Draws | None,
) -> dict[str, str]:
    """Metadata of the video file: how it was made. `noise`: the draws of `--noise`."""
    own = "the model's own" if args.backward is None else "/".join(args.backward.resolve().parts[-2:])
    backward = own if methods.method_of(method).fine_tuned else "not used"
    names = ["first", "last"] if args.demo else [Path(name).name for name in args.keyframes]
    switches = {"loop": args.loop, "keep_keyframes": args.keep_keyframes}
    return {
        "software": "svdjax",
        "keyframes": " ".join(names),
        "model": model.name,
        "backward": backward,
        "method": method,
        "size": f"{size[0]}x{size[1]}",
        "dtype": compute_dtype(args.dtype),
        "fit": args.fit,
        "decode_chunk": str(args.decode_chunk or "all"),
        "noise": args.noise.name if args.noise else "from the seed",
        **({} if noise is None else {NOISE_HASH: hash_of([np.asarray(x) for x in jax.tree.leaves(noise)])}),
        **settings.as_text(),
        **{name: "yes" for name, given in switches.items() if given},
        **({"rate": str(args.rate)} if args.rate > 1 else {}),
        **({} if args.kernels == XLA else {"kernels": args.kernels}),
    }


def hash_of(arrays: list[np.ndarray]) -> str:
    """A hash of the values of arrays, such as fitted keyframes, uint8 (H, W, 3)."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def difference(path: Path, wanted: Mapping[str, str]) -> str | None:
    """How the metadata of a video differ from wanted ones; None if they don't. The hash of the keyframes isn't compared.

    Raises:
        InputError: the file can't be read.
    """
    found = {name: value for name, value in video.read_metadata(path).items() if name not in (_PLAN, KEYFRAMES_HASH)}
    if not found:
        return "made by another program"
    wanted = {name: encodable(value) for name, value in wanted.items() if name != KEYFRAMES_HASH}
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not (NOISE_HASH in found and NOISE_HASH in wanted):  # then the name of the noise says what is known
        names = [name for name in names if name != NOISE_HASH]
    differences = [f"{name} {found.get(name, 'unset')} instead of {wanted.get(name, 'unset')}" for name in names]
    return f"made with {', '.join(differences)}" if differences else None


def newer_than(path: Path, files: list[str]) -> bool:
    """Whether one of some files was written or moved to its place after `path` was written.

    The time of the last change of a file's inode also counts an older file that was moved or copied to the name.
    """
    written = first_frame(path).stat().st_mtime_ns
    return any(os.stat(file).st_ctime_ns >= written for file in files)


def first_frame(path: Path) -> Path:
    """The first frame of a folder of frames, or the file itself."""
    return path / "0000.png" if path.is_dir() else path
