"""Reader of safetensors files: one tensor at a time, with files checked and hashed.

Files are read by offset and never memory-mapped: the pages of a mapped checkpoint of several GB would count as memory of the
process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from svdjax.errors import InputError, one_line
from svdjax.runtime.input_files import reading

# Dtypes allowed for weights, by safetensors' names.
NUMPY_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
_LONGEST_HEADER = 100_000_000  # the format's limit, in bytes
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor's entry in the header of a file.

    Attributes:
        dtype: safetensors' dtype name, such as `F32`.
        shape: PyTorch's shape.
        path: the file.
        start, stop: its byte range in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.stop - self.start


@dataclass(frozen=True)
class Weights:
    """The tensors of one network, in one safetensors file or several.

    Attributes:
        where: the file, or the index of several files.
        paths: the safetensors files.
        tensors: the entries of their headers, by PyTorch name.
    """

    where: Path
    paths: tuple[Path, ...]
    tensors: dict[str, StoredTensor]
    _hashes: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def open(cls, where: Path, paths: tuple[Path, ...]) -> Weights:
        """Read the headers of `paths`, and nothing else.

        Raises:
            InputError: a file that is not a complete safetensors file, or a tensor in two of them.
        """
        tensors: dict[str, StoredTensor] = {}
        for path in paths:
            for name, tensor in read_header(path).items():
                if name in tensors:
                    raise InputError(f"{path}: {name} is also in {tensors[name].path.name}")
                tensors[name] = tensor
        return cls(where, paths, tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def read(self, name: str) -> np.ndarray:
        """One tensor in the dtype of its file.

        Raises:
            InputError: it holds NaN or infinite values, or the file ends within it.
        """
        tensor = self.tensors[name]
        with reading(tensor.path) as f:
            f.seek(tensor.start)
            return _values(name, tensor, np.fromfile(f, np.uint8, tensor.nbytes))

    def stream(self, advance: Callable[[int], object]) -> Iterator[tuple[str, np.ndarray]]:
        """Read all tensors, as `read` does, in the order of the files, and hash the files at the same time.

        Args:
            advance: called after each tensor with its number of bytes.
        """
        for path in self.paths:
            in_file = [(name, tensor) for name, tensor in self.tensors.items() if tensor.path == path]
            in_file.sort(key=lambda item: item[1].start)
            digest = hashlib.sha256()
            with reading(path) as f:
                digest.update(f.read(in_file[0][1].start if in_file else -1))
                for name, tensor in in_file:  # without gaps between them: `read_header` has checked that
                    raw = np.fromfile(f, np.uint8, tensor.nbytes)
                    digest.update(raw.data)
                    yield name, _values(name, tensor, raw)
                    advance(tensor.nbytes)
            self._hashes[path] = digest.hexdigest()

    def hashes(self, prefix: str) -> dict[str, str]:
        """SHA-256 of each file and of their index, by name after `prefix/`. Files that were not streamed are read again."""
        return {f"{prefix}/{path.name}": self._hashes.get(path) or sha256(path) for path in (self.where, *self.paths)}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with reading(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, from its header.

    Raises:
        InputError: the file can't be opened, is empty, truncated, a Git LFS pointer, or not safetensors.
    """
    text, length = _header_text(path)
    data = 8 + length
    try:  # the library's own checks: types, sizes, overlaps, gaps
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as e:
        problem = _what_is_wrong(path, text, length) or f"is not a valid safetensors file: {one_line(e, 200)}"
        raise InputError(f"{path}: {problem}") from None
    entries: dict[str, Any] = json.loads(text)
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in entries.items():
        start, stop = (data + offset for offset in entry["data_offsets"])
        tensors[name] = StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), path=path, start=start, stop=stop)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The strings in the header of a file that `read_header` has checked."""
    metadata = json.loads(_header_text(path)[0]).get("__metadata__") or {}
    return {str(key): str(value) for key, value in metadata.items()}


def _what_is_wrong(path: Path, text: bytes, length: int) -> str | None:
    """What is wrong with a file that the library refuses; None if its header can be read and the file is long enough."""
    try:
        entries = json.loads(text) if len(text) == length else {}
        stops = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        needed = 8 + length + max(stops, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "is not a safetensors file: its header can't be read"
    size = os.stat(path).st_size
    if isinstance(needed, int) and size < needed:
        return f"is truncated: {size:,} bytes, expected at least {needed:,}: download or copy it again"
    return None


def _header_text(path: Path) -> tuple[bytes, int]:
    """The JSON text of a file's header and its length as stored in the file; if the file is truncated, the text is shorter."""
    with reading(path) as f:
        beginning = f.read(len(_LFS_POINTER))
        length = int.from_bytes(beginning[:8], "little")
        f.seek(8)
        text = f.read(min(length, _LONGEST_HEADER))
    if not beginning:
        raise InputError(f"{path}: is empty")
    if beginning == _LFS_POINTER:
        raise InputError(f"{path}: is a Git LFS pointer, expected the weights themselves: fetch them with `git lfs pull`")
    if text[:1] != b"{" or length > _LONGEST_HEADER:
        raise InputError(f"{path}: is not a safetensors file")
    return text, length


def _values(name: str, tensor: StoredTensor, raw: np.ndarray) -> np.ndarray:
    """The values of a tensor from its bytes; they must be finite."""
    if raw.size != tensor.nbytes:
        raise InputError(f"{tensor.path}: ends within {name}: was it changed while being read?")
    if tensor.dtype not in NUMPY_DTYPES:  # a buffer in `name_table.IGNORED`; the dtypes of weights have been checked
        return raw
    values = raw.view(NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(f"{tensor.path}: {name} holds {bad:,} NaN or infinite values of {values.size:,}")
    return values
