"""Options of XLA for programs that must fit in memory."""

from __future__ import annotations

import jax


def memory_options() -> dict[str, str]:
    """`compiler_options` of `jax.jit` that order operations to save memory.

    XLA's CPU backend otherwise orders them for concurrency, and holds buffers from long before they are used: a training step
    planned with three times the memory. On a GPU the default order saves memory already.
    """
    return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if jax.default_backend() == "cpu" else {}
