"""The choice between XLA's own code and the Pallas kernels of this folder."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

from svdjax.devices.target import target
from svdjax.errors import InputError

XLA, PALLAS = "xla", "pallas"
_chosen: ContextVar[str] = ContextVar("kernels", default=XLA)


def kernels() -> str:
    """`xla` or `pallas`: the implementation that models use where both exist."""
    return _chosen.get()


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Within the block, trace programs with the kernels `name`, `xla` or `pallas`.

    JAX's caches are cleared when the choice changes, because a cached trace doesn't record the choice.

    Raises:
        InputError: Pallas kernels on a device that is neither an NVIDIA GPU nor a CPU, which interprets them.
    """
    if name == PALLAS and not (target().nvidia or target().is_cpu):
        raise InputError(f"--kernels {name}: the device is of kind {target().platform}, expected an NVIDIA GPU or a CPU")
    if name == kernels():
        yield
        return
    jax.clear_caches()
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
        jax.clear_caches()


def add_kernels(p: argparse.ArgumentParser) -> None:
    """Add `--kernels`, the argument of `using`."""
    p.add_argument(
        "--kernels",
        choices=(XLA, PALLAS),
        default=XLA,
        help="implementation of feed-forward layers: XLA's, or Pallas kernels for NVIDIA GPUs, which move fewer bytes but "
        "have not been timed yet; a CPU interprets them, slowly (default: %(default)s)",
    )
