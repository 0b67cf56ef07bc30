"""Measuring compiled JAX programs: compilation, seconds, memory, and what the device can do at most."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from sample import host_memory

_CACHE_OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
# Side and number of products in flight together: bound by arithmetic, not by launching, and done in a fraction of a second.
_MATMUL = {"cpu": (2048, 1), "gpu": (8192, 8)}
_MATMUL_TRIES = 5


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments bound.

    Attributes:
        run: runs it once and waits for the result.
        trace_seconds: Python to StableHLO.
        compile_seconds: StableHLO to machine code, nothing cached.
        warm_compile_seconds: the same, read from JAX's persistent cache; None if that was not asked for, or the cache did
            not take the program.
        scratch_bytes, argument_bytes: XLA's plan of memory.
    """

    run: Callable[[], Any]
    trace_seconds: float
    compile_seconds: float
    warm_compile_seconds: float | None
    scratch_bytes: int
    argument_bytes: int


def compile_program(fn: Callable[..., Any], args: tuple[Any, ...], *, warm: bool) -> Program:
    """Compile `fn(*args)`; with `warm` a second time, from a persistent cache that has only seen the first.

    The user's own cache is neither read nor written. `args` may be abstract; the program can't be run then.
    """
    # Flat arguments: taking a model's thousand parameters apart is no part of a step within the sampler's scan.
    leaves, tree = jax.tree.flatten(args)

    # Weights that are kept but not used take memory all the same.
    @functools.partial(jax.jit, keep_unused=True)
    def flat(*leaves: Any) -> Any:
        return fn(*jax.tree.unflatten(tree, leaves))

    with _fresh_cache() as folder:
        started = time.perf_counter()
        lowered = flat.lower(*leaves)
        traced = time.perf_counter()
        compiled = lowered.compile()
        ended = time.perf_counter()
        warm_seconds = None
        if warm and any(folder.iterdir()):
            jax.clear_caches()
            lowered = flat.lower(*leaves)
            restarted = time.perf_counter()
            compiled = lowered.compile()
            warm_seconds = time.perf_counter() - restarted
    memory = compiled.memory_analysis()
    return Program(
        lambda: jax.block_until_ready(compiled(*leaves)),
        traced - started,
        ended - traced,
        warm_seconds,
        memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
    )


@contextlib.contextmanager
def _fresh_cache() -> Iterator[Path]:
    """An empty persistent compilation cache that takes everything, for as long as the block runs."""
    saved = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}
    with tempfile.TemporaryDirectory(prefix="svdjax-benchmark-") as folder:
        for name, value in zip(_CACHE_OPTIONS, (folder, True, 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX opens its cache once and then keeps to it
        try:
            yield Path(folder)
        finally:
            for name, value in saved.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each of `runs`, taken in turn `repeats` times after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if i > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(prefix: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all of some timings, named after `prefix`."""
    return {
        prefix: statistics.median(seconds),
        f"{prefix}_min": min(seconds),
        f"{prefix}_max": max(seconds),
        f"{prefix}_all": list(seconds),
    }


def matmul_limit(dtype: Any) -> tuple[int, float]:
    """The side of a large square matrix product on the default device, and the operations a second of its fastest try."""
    size, calls = _MATMUL.get(jax.default_backend(), _MATMUL["gpu"])
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, b))
    best = float("inf")
    for _ in range(_MATMUL_TRIES):
        started = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(calls)])
        best = min(best, time.perf_counter() - started)
    return size, calls * 2 * size**3 / best


def peak_bytes() -> int:
    """The most memory used so far: of an accelerator by JAX's arrays and programs, of a CPU by the process (resident)."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else host_memory.peak()


def cores() -> int:
    """Processor cores that this process may use: JAX's own number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str:
    """The default device in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} ({device.platform})"
    model = "CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {cores()} cores (cpu)"
