"""Writer of a safetensors file: one tensor at a time, so that only one is in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from svdjax.checkpoints.safetensors_reader import NUMPY_DTYPES
from svdjax.errors import InputError

_ALIGNMENT = 8  # bytes; the header is padded with spaces to a multiple of it, as the safetensors library does


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    arrays: Iterable[np.ndarray],
    metadata: Mapping[str, str],
) -> None:
    """Write a new safetensors file.

    Args:
        path: the file.
        shapes: the shape of each tensor by name, in the order of `arrays`.
        dtype: numpy's name of the dtype of all tensors.
        arrays: their values; each array is requested after the previous one is written.
        metadata: strings for the header.

    Raises:
        InputError: the file can't be written, for example on a full disk.
    """
    code = next(code for code, known in NUMPY_DTYPES.items() if np.dtype(known) == np.dtype(dtype))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    stop = 0
    for name, shape in shapes.items():
        start, stop = stop, stop + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    values = iter(arrays)
    try:
        with path.open("xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name, shape in shapes.items():
                value = next(values)
                if value.shape != shape or value.dtype != np.dtype(dtype):
                    raise ValueError(f"{name} is {value.dtype} {value.shape}, expected {dtype} {shape}")
                file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    except OSError as e:
        raise InputError(f"{path}: can't be written: {e.strerror}") from None
