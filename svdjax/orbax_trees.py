"""Flat mappings of arrays on disk, as Orbax trees. The only file that knows Orbax, which is imported when it is used."""

from __future__ import annotations

import contextlib
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


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write arrays by name as a new folder. Numpy arrays are written as they are, without a copy in memory.

    Raises:
        InputError: the folder can't be written, such as on a full disk.
    """
    with _orbax() as ocp:
        types = ocp.type_handlers
        # Compressed data would be held in memory until all of it is written.
        handler = ocp.PyTreeCheckpointHandler(
            use_compression=False,
            type_handler_registry=types.create_type_handler_registry(
                (np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False))
            ),
        )
        tree = {name: np.asarray(value) for name, value in tree.items()}
        try:
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))
        except (OSError, ValueError) as e:  # TensorStore raises ValueError, also for a full disk
            raise InputError(f"{path}: can't be written: {_brief(e)}") from e


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
    sharding: Callable[[str], jax.sharding.Sharding] | None = None,
) -> dict[str, Array]:
    """Read all arrays of a tree.

    Args:
        path: its folder.
        expected: their names and shapes, which must be the tree's, and the dtypes they are cast to.
        sharding: where an array goes, from its name; the default device if left out.

    Raises:
        InputError: other names or shapes, or data that can't be read.
    """
    found = {name: value.shape for name, value in tree_shapes(path).items()}
    wanted = {name: value.shape for name, value in expected.items()}
    if found != wanted:
        names = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
        found, wanted = found.get(names[0], "not there"), wanted.get(names[0], "none")
        raise InputError(f"{path}: {names[0]} is {found}, expected {wanted} ({len(names)} tensors are not as config.json says)")
    default = jnp.zeros(()).sharding
    target = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=default if sharding is None else sharding(name))
        for name, value in expected.items()
    }
    with _reading(path) as (ocp, checkpointer):
        args = ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))
        return checkpointer.restore(path.absolute(), args=args)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Orbax and a checkpointer; what they raise becomes one line."""
    with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
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
