"""Flat mappings from names to arrays, stored as Orbax trees.

Each process of a run reads the trees itself; only process 0 writes. No function waits for other processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.checkpoints.orbax_calls import orbax, reading, this_process_alone, utf8_path
from svdjax.errors import InputError, one_line

# From the name and shape of a tensor; None: it stays in host memory, as a numpy array.
Shardings = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]


def in_host_memory(name: str, shape: tuple[int, ...]) -> None:
    """Shardings of a model whose tensors all stay in host memory."""


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write arrays by name as a new folder. Numpy arrays are not copied in memory.

    Raises:
        InputError: the folder can't be written, for example on a full disk.
        RuntimeError: called in another process than process 0, where Orbax would write an empty tree.
    """
    if jax.process_index():
        raise RuntimeError(f"process {jax.process_index()} can't write {path}, only process 0 can")
    with orbax() as ocp:
        types = ocp.type_handlers
        # Compressed copies would stay in memory until all data is written.
        handler = ocp.PyTreeCheckpointHandler(
            use_compression=False,
            multiprocessing_options=this_process_alone(ocp),
            type_handler_registry=types.create_type_handler_registry(
                (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False))
            ),
        )
        tree = {name: np.asarray(value) for name, value in tree.items()}
        try:
            writer = ocp.Checkpointer(handler, multiprocessing_options=this_process_alone(ocp))
            with utf8_path(path) as folder, writer as checkpointer:
                checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
        except (OSError, ValueError) as e:  # TensorStore raises ValueError, also for a full disk
            raise InputError(f"{path}: can't be written: {type(e).__name__}: {one_line(e, 200)}") from e


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of the names and bytes of arrays, independent of their order in `tree`."""
    sha = hashlib.sha256()
    for name in sorted(tree):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(tree[name]).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer protocol
    return sha.hexdigest()


def tree_shapes(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the arrays of a tree, by name; `InputError` if the tree is missing or incomplete."""
    with reading(path) as (_, checkpointer), utf8_path(path) as folder:
        metadata = checkpointer.metadata(folder).item_metadata
        if metadata is None:
            raise InputError(f"{path}: is damaged: it holds no Orbax tree")
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in metadata.tree.items()}


def restore_tree(
    path: Path,
    expected: Mapping[str, jax.ShapeDtypeStruct],
    sharding: Shardings | None = None,
    *,
    partial: bool = False,
) -> dict[str, Array]:
    """Read the arrays of a tree.

    Args:
        path: its folder.
        expected: names and shapes, which must equal the tree's, and the dtypes to cast to.
        sharding: maps the name and shape of an array to its sharding, see `Shardings`; default: all on the default device.
        partial: whether the tree may hold other arrays, which are then not read.

    Raises:
        InputError: other names or shapes, or data that can't be read.
    """
    _check_shapes(path, expected, partial)
    default = jnp.zeros(()).sharding
    target = {
        name: jax.ShapeDtypeStruct(
            value.shape, value.dtype, sharding=default if sharding is None else sharding(name, value.shape)
        )
        for name, value in expected.items()
    }
    return _restore(path, target)


def stream_tree(
    path: Path, expected: Mapping[str, jax.ShapeDtypeStruct], group_bytes: int, *, partial: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Read the arrays of a tree as numpy arrays, a group at a time.

    Args:
        path: its folder.
        expected: names and shapes, which must equal the tree's, and the dtypes to cast to; in the order of the result.
        group_bytes: maximum size of a group; a larger array is a group by itself.
        partial: see `restore_tree`.

    Raises:
        InputError: see `restore_tree`.
    """
    _check_shapes(path, expected, partial)
    for group in _groups(expected, group_bytes):
        arrays = _restore(path, group)
        for name in group:
            yield name, arrays.pop(name)


def _groups(expected: Mapping[str, jax.ShapeDtypeStruct], group_bytes: int) -> Iterator[dict[str, jax.ShapeDtypeStruct]]:
    group: dict[str, jax.ShapeDtypeStruct] = {}
    size = 0
    for name, value in expected.items():
        nbytes = value.size * value.dtype.itemsize
        if group and size + nbytes > group_bytes:
            yield group
            group, size = {}, 0
        group[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
        size += nbytes
    yield group


def _check_shapes(path: Path, expected: Mapping[str, jax.ShapeDtypeStruct], partial: bool) -> None:
    stored = {name: value.shape for name, value in tree_shapes(path).items() if not partial or name in expected}
    wanted = {name: value.shape for name, value in expected.items()}
    different = sorted(name for name in stored | wanted if stored.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise InputError(
            f"{path}: {name} is {stored.get(name, 'not there')}, expected {wanted.get(name, 'none')} "
            f"({len(different)} tensors differ from config.json)"
        )


def _restore(path: Path, target: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """The arrays named in `target`: JAX arrays where it holds a sharding, otherwise numpy arrays."""
    with reading(path) as (ocp, checkpointer), utf8_path(path) as folder:
        restore_args = ocp.checkpoint_utils.construct_restore_args(dict(target))
        args = ocp.args.PyTreeRestore(dict(target), restore_args=restore_args, partial_restore=True)
        return checkpointer.restore(folder, args=args)
