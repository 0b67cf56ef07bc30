"""XLA options: less memory for compiled programs, and threads for simulated CPU devices."""

from __future__ import annotations

import os

import jax

from svdjax.devices.target import target


def memory_options() -> dict[str, str]:
    """`compiler_options` of `jax.jit` that order operations to save memory.

    By default XLA's CPU backend orders operations for concurrency, and allocates buffers long before their use: a
    training step needed three times the memory. On a GPU the default order already saves memory.
    """
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if target().is_cpu else {}


def spare_threads() -> None:
    """Give XLA more threads than there are simulated CPU devices. Call this before any other use of JAX.

    XLA's CPU devices share one thread per core. A device that waits for another in a collective blocks its thread. If no
    thread is left, the other device never finishes: training with two devices on two cores hung. `NPROC`, which XLA reads, is
    not changed if it is already set.
    """
    devices: int = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]: defined at run time
    if devices > 1:
        os.environ.setdefault("NPROC", str(devices + cores()))


def cores() -> int:
    """Number of CPU cores that this process may use, which is JAX's default number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
