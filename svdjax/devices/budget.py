"""The memory that a run may use on its device: a number of GiB from the user, or what the device has."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from typing import Any

import jax

from svdjax.errors import InputError, one_line
from svdjax.scalars import real_number

GIB = 2**30
# What a GPU needs besides a program's own memory: its context, workspaces of cuDNN, a display.
RESERVED_BYTES = int(1.2 * GIB)
# Share of a region of JAX's memory that plans leave free. Its allocator rounds sizes up to 256 bytes, may give an array up to
# 128 MiB too much, and keeps free memory in the pieces between arrays, while a program's scratch is one piece. In a simulation
# of the allocator with the arrays of a clip, encoding and sampling needed up to 1 % more than their peak; for decoding, see
# `svdjax.decoding.staged_decode.UNUSABLE_SHARE`.
FREE_SHARE = 0.02
# Share of a GPU's memory that JAX may take if the GPU's memory size isn't known before JAX starts. The rest is 0.8 GiB of
# 8 GiB, and 2.4 of 24: more would be too much for a small GPU's context, less would be wasted on a large one.
UNKNOWN_SIZE_SHARE = 0.9
_SHARE_VARIABLES = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")


def memory_in_gib(value: Any, name: str = "memory") -> float:
    """A number of GiB above 0.

    Args:
        value: a number of Python, NumPy or JAX.
        name: for the message.

    Raises:
        InputError: anything else.
    """
    gib = real_number(value)
    if gib is None or gib <= 0:
        raise InputError(f"{name} is {one_line(repr(value), 60)}, expected a number of GiB above 0")
    return float(gib)


def budget_bytes(memory: float | None, name: str = "memory") -> int | None:
    """Bytes that the programs of a run may use on JAX's default device. Starts JAX's backend.

    On an accelerator this is less than `memory`, see `for_programs`.

    Args:
        memory: from `memory_in_gib`; None is the default: all that JAX may take of an accelerator, no limit on a CPU.
        name: for the message.

    Raises:
        InputError: more than the device has.
    """
    available = device_bytes()
    on_cpu = jax.default_backend() == "cpu"
    if memory is None:
        return None if on_cpu or available is None else for_programs(available)
    if available is not None and memory * GIB > available:
        most = f"{int(available / GIB * 10) / 10:g} GiB, which {jax.local_devices()[0]} has for JAX"
        raise InputError(f"{name} is {memory:g}, expected at most {most}")
    return int(memory * GIB) if on_cpu else for_programs(memory * GIB)


def for_programs(region: float) -> int:
    """Bytes that arrays and programs may use of a region of an accelerator's memory."""
    return int(region * (1 - FREE_SHARE))


def device_bytes() -> int | None:
    """Bytes that JAX may take of its default device, on a CPU all of the host's memory; None if it is not known."""
    if jax.default_backend() == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):  # not on every system
            return None
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def take_share(memory: float | None = None) -> None:
    """Let JAX take an NVIDIA GPU's memory except `RESERVED_BYTES`, less for a small `memory`. Call this before JAX starts.

    JAX takes three quarters of a GPU by default. It takes its share at once, as one region: its own allocator is kept because
    CUDA's (`XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async`) doesn't report a limit. A user's own settings are not changed.
    """
    if any(name in os.environ for name in _SHARE_VARIABLES) or not importlib.metadata.entry_points(group="jax_plugins"):
        return
    total = _gpu_bytes()
    share = UNKNOWN_SIZE_SHARE if total is None else 1 - RESERVED_BYTES / total
    if total is not None and memory is not None:
        # JAX's share is of CUDA's total, a few percent below the driver's; the plan keeps to `memory`.
        share = min(share, (memory * GIB + RESERVED_BYTES) / total)
    os.environ[_SHARE_VARIABLES[0]] = f"{max(share, 0.05):.4f}"


def _gpu_bytes() -> int | None:
    """Memory of the smallest NVIDIA GPU in use, from its driver, because asking JAX would start JAX. None if not known."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            command.append(f"--id={visible}")
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return min(int(line) for line in output.split()) * 2**20  # MiB
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
