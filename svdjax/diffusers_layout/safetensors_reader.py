"""Reading safetensors files one tensor at a time, with every byte accounted for.

Files are read by offset and never mapped: a mapped checkpoint of several GB would count as memory of the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from svdjax.errors import InputError

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}  # those of weights
_LONGEST_HEADER = 100_000_000  # the format's limit, in bytes
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Tensor:
    """One tensor in a file: what its header says. `start` and `stop` are bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Weights:
    """The tensors of one component, in one safetensors file or several.

    Attributes:
        where: the file, or the index of several, for messages.
        paths: the safetensors files.
        tensors: what the files hold, by PyTorch name.
    """

    where: Path
    paths: tuple[Path, ...]
    tensors: dict[str, Tensor]
    _hashes: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def open(cls, where: Path, paths: tuple[Path, ...]) -> Weights:
        """Read the headers of `paths`, and nothing else.

        Raises:
            InputError: a file that is not a whole safetensors file, or a tensor in two of them.
        """
        tensors: dict[str, Tensor] = {}
        for path in paths:
            for name, tensor in read_header(path).items():
                if name in tensors:
                    raise InputError(f"{path}: {name} is also in {tensors[name].path.name}")
                tensors[name] = tensor
        return cls(where, paths, tensors)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read(self, name: str) -> np.ndarray:
        """One tensor in the dtype of its file.

        Raises:
            InputError: it holds NaN or infinite values, or the file ends before it does.
        """
        tensor = self.tensors[name]
        with _reading(tensor.path) as f:
            f.seek(tensor.start)
            return _values(name, tensor, np.fromfile(f, np.uint8, tensor.nbytes))

    def stream(self, advance: Callable[[int], None]) -> Iterator[tuple[str, np.ndarray]]:
        """All tensors as `read` gives them, in the order of the files, which are hashed on the way.

        Args:
            advance: called after each tensor, with its bytes.
        """
        for path in self.paths:
            here = sorted(((n, t) for n, t in self.tensors.items() if t.path == path), key=lambda item: item[1].start)
            digest = hashlib.sha256()
            with _reading(path) as f:
                digest.update(f.read(here[0][1].start if here else -1))
                for name, tensor in here:  # they follow each other without a gap: `read_header` has seen to that
                    raw = np.fromfile(f, np.uint8, tensor.nbytes)
                    digest.update(raw)
                    yield name, _values(name, tensor, raw)
                    advance(tensor.nbytes)
            self._hashes[path] = digest.hexdigest()

    def hashes(self) -> dict[Path, str]:
        """SHA-256 of each file, and of their index; files that were not streamed are read for it."""
        return {path: self._hashes.get(path) or sha256(path) for path in (self.where, *self.paths)}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with _reading(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, from its header.

    Raises:
        InputError: the file can't be opened, is empty, truncated, a Git LFS pointer, or not safetensors.
    """
    with _reading(path) as f:
        size = path.stat().st_size
        beginning = f.read(len(_LFS_POINTER))
        length = int.from_bytes(beginning[:8], "little")
        f.seek(8)
        text = f.read(min(length, _LONGEST_HEADER))
    if not size:
        raise InputError(f"{path}: is empty")
    if beginning == _LFS_POINTER:
        raise InputError(f"{path}: is a Git LFS pointer, not the weights it stands for: fetch them with `git lfs pull`")
    if text[:1] != b"{" or length > _LONGEST_HEADER:
        raise InputError(f"{path}: is not a safetensors file")
    try:
        entries = json.loads(text) if len(text) == length else {}
        entries.pop("__metadata__", None)
        needed = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise InputError(f"{path}: is not a safetensors file: its header can't be read") from None
    if size < needed:
        raise InputError(f"{path}: is truncated: {size:,} bytes of at least {needed:,}; download or copy it again")
    try:  # the library's own checks: types, sizes, overlaps, gaps
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as e:
        raise InputError(f"{path}: is not a valid safetensors file: {e}") from None
    data = 8 + length
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), path, *(data + offset for offset in entry["data_offsets"]))
        for name, entry in entries.items()
    }


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as e:
        raise InputError(f"{path}: can't be opened: {e.strerror}") from None
    with file:
        yield file


def _values(name: str, tensor: Tensor, raw: np.ndarray) -> np.ndarray:
    """The bytes of a tensor as its values, which must be finite."""
    if raw.size != tensor.nbytes:
        raise InputError(f"{tensor.path}: ends within {name}: was it changed while being read?")
    if tensor.dtype not in DTYPES:  # a buffer that the table ignores: weights have been checked for their type
        return raw
    values = raw.view(DTYPES[tensor.dtype]).reshape(tensor.shape)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(f"{tensor.path}: {name} holds {bad:,} NaN or infinite values of {values.size:,}")
    return values
