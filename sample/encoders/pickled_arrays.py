"""Read pickles that hold only NumPy arrays, dictionaries, lists, tuples, strings and numbers.

A pickle can name any function and call it with any arguments. This reader knows only the three names that arrays need, so a
weights file of a package is read as data and never runs code.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from svdjax.errors import InputError


def _new_array(kind: Any, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that the pickle fills next."""
    if kind is not np.ndarray or tuple(shape) != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("unexpected arguments of an array")
    return np.ndarray((0,), np.int8)


def _new_dtype(code: Any, *_: Any) -> np.dtype:
    if not isinstance(code, str) or np.dtype(code).kind not in "biufc":
        raise pickle.UnpicklingError(f"the dtype {code!r}")
    return np.dtype(code, copy=True)  # the pickle sets the byte order of the result, which must not be NumPy's own object


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _new_dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module_name}.{global_name}") from None


def load(content: bytes, name: str) -> Any:
    """The content of a pickle of arrays.

    Args:
        content: bytes of the file.
        name: the file, for errors.

    Raises:
        InputError: it is no pickle, or holds something other than arrays and plain containers.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content)).load()
    except Exception as e:  # damaged pickles raise nearly any kind of exception
        raise InputError(f"{name}: holds {e}, expected a pickle with NumPy arrays only") from None
