"""Options of XLA: for programs that must fit in memory, and for simulated devices."""

from __future__ import annotations

import os

import jax


def memory_options() -> dict[str, str]:
    """`compiler_options` of `jax.jit` that order operations to save memory.

    XLA's CPU backend otherwise orders them for concurrency, and holds buffers from long before they are used: a training step
    planned with three times the memory. On a GPU the default order saves memory already.
    """
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if jax.default_backend() == "cpu" else {}


def spare_threads() -> None:
    """Give simulated CPU devices more threads than there are of them; to be called before JAX is used for anything else.

    XLA's CPU devices share as many threads as there are cores. One that waits for another in a collective keeps its thread,
    and where no thread is left, the parts of the other's work never run: training with two devices on two cores hung.
    `NPROC`, which XLA reads, is left alone if set.
    """
    devices = jax.config.jax_num_cpu_devices
    if devices > 1:
        os.environ.setdefault("NPROC", str(devices + cores()))


def cores() -> int:
    """Processor cores that this process may use: JAX's own number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
