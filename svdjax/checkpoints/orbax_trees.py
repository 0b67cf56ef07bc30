"""Flat mappings of arrays on disk, as Orbax trees. Orbax is imported when it is used.

Of several processes each reads for itself, and the first alone may write: nothing here waits for another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from svdjax.errors import InputError

Shardings = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]  # where a tensor goes, from its name and shape


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write arrays by name as a new folder. Numpy arrays are written as they are, without a copy in memory.

    Raises:
        InputError: the folder can't be written, such as on a full disk.
        RuntimeError: called in another process than a run's first, from which Orbax would write an empty tree.
    """
    if jax.process_index():
        raise RuntimeError(f"process {jax.process_index()} is to write {path}, which only the first one can")
    with _orbax() as ocp:
        types = ocp.type_handlers
        # Compressed data would be held in memory until all of it is written.
        handler = ocp.PyTreeCheckpointHandler(
            use_compression=False,
            multiprocessing_options=_alone(ocp),
            type_handler_registry=types.create_type_handler_registry(
                (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False))
            ),
        )
        tree = {name: np.asarray(value) for name, value in tree.items()}
        try:
            with ocp.Checkpointer(handler, multiprocessing_options=_alone(ocp)) as checkpointer:
                checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))
        except (OSError, ValueError) as e:  # TensorStore raises ValueError, also for a full disk
            raise InputError(f"{path}: can't be written: {_brief(e)}") from e


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of arrays by name: of their names and values as they lie in memory, whatever their order in `tree`."""
    found = hashlib.sha256()
    for name in sorted(tree):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tree[name]).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
    return found.hexdigest()


def tree_shapes(path: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the arrays of a tree, by name; `InputError` if there is no whole tree."""
    with _reading(path) as (_, checkpointer):
        metadata = checkpointer.metadata(path.absolute()).item_metadata
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
        expected: their names and shapes, which must be the tree's, and the dtypes they are cast to.
        sharding: where an array goes, from its name and shape; the default device if left out.
        partial: whether the tree may hold others too, which are not read.

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
    path: Path, expected: Mapping[str, jax.ShapeDtypeStruct], at_once: int, *, partial: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Read the arrays of a tree as numpy arrays, a group at a time.

    Args:
        path: its folder.
        expected: their names and shapes, which must be the tree's, and the dtypes they are cast to; in the order wanted.
        at_once: bytes of a group, at most, unless one array alone is larger.
        partial: as of `restore_tree`.

    Raises:
        InputError: as `restore_tree`.
    """
    _check_shapes(path, expected, partial)
    groups: list[dict[str, jax.ShapeDtypeStruct]] = [{}]
    room = at_once
    for name, value in expected.items():
        room -= value.size * value.dtype.itemsize
        if groups[-1] and room < 0:
            groups.append({})
            room = at_once - value.size * value.dtype.itemsize
        groups[-1][name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
    for group in groups:
        arrays = _restore(path, group)
        for name in group:
            yield name, arrays.pop(name)


def _check_shapes(path: Path, expected: Mapping[str, jax.ShapeDtypeStruct], partial: bool) -> None:
    found = {name: value.shape for name, value in tree_shapes(path).items() if not partial or name in expected}
    wanted = {name: value.shape for name, value in expected.items()}
    if found != wanted:
        names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        found, wanted = found.get(names[0], "not there"), wanted.get(names[0], "none")
        raise InputError(f"{path}: {names[0]} is {found}, expected {wanted} ({len(names)} tensors are not as config.json says)")


def _restore(path: Path, target: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """The arrays named in `target`: JAX arrays where that gives a sharding, otherwise numpy arrays."""
    with _reading(path) as (ocp, checkpointer):
        restore_args = ocp.checkpoint_utils.construct_restore_args(dict(target))
        args = ocp.args.PyTreeRestore(dict(target), restore_args=restore_args, partial_restore=True)
        return checkpointer.restore(path.absolute(), args=args)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Orbax and a checkpointer; what they raise becomes one line."""
    with _orbax() as ocp:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone(ocp))
        try:
            with ocp.Checkpointer(handler, multiprocessing_options=_alone(ocp)) as checkpointer:
                yield ocp, checkpointer
        except InputError:
            raise
        except Exception as e:  # Orbax and TensorStore name no type of error for damaged data
            cause: BaseException | None = e
            while cause is not None:
                if isinstance(cause, KeyboardInterrupt):  # a second Ctrl-C, which Orbax reports as an error of reading
                    raise KeyboardInterrupt from e
                cause = cause.__cause__ or cause.__context__
            raise InputError(f"{path}: can't be read: {_brief(e)}") from e


def _alone(ocp: Any) -> Any:
    """Orbax's options for work of this process alone, which otherwise waits for all processes of a run."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _brief(e: Exception) -> str:
    """The beginning of a message that may be pages long."""
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax, without its log lines on standard error; Ctrl-C takes effect at the end of the block."""
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _interrupts_later():
            yield ocp
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Let a first Ctrl-C wait for the end of the block, and say so.

    TensorStore's threads can't be stopped: they would go on writing into a folder that is being removed, or report on
    standard error that nobody waits for what they read.
    """
    before = signal.getsignal(signal.SIGINT)
    # Signals arrive in the main thread alone; a handler that isn't Python's means that they are ignored or end the process.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed = []

    def wait(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        print("stopping after the part that is being read or written; Ctrl-C again: at once", file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
