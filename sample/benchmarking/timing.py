"""Measuring compiled JAX programs: compilation, seconds, memory, and what the device can do at most."""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from sample.benchmarking import host_memory
from svdjax.runtime import xla_options

_CACHE_OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
# Side and number of products in flight together: bound by arithmetic, not by launching, and done in a fraction of a second.
_MATMUL = {"cpu": (2048, 1), "gpu": (8192, 8)}
_MATMUL_TRIES = 5


@dataclass(frozen=True)
class Program:
    """A compiled function with its arguments bound.

    Attributes:
        run: runs it once, waits for the result and returns it.
        compiled: what JAX makes of it.
        trace_seconds: Python to StableHLO.
        compile_seconds: StableHLO to machine code, nothing cached.
        warm_compile_seconds: the same, read from JAX's persistent cache; None if that was not asked for, or the cache did
            not take the program.
        scratch_bytes, argument_bytes: XLA's plan of memory, on each device.
        total_bytes: these and the results, apart from those that take the place of arguments.
    """

    run: Callable[[], Any]
    compiled: Any
    trace_seconds: float
    compile_seconds: float
    warm_compile_seconds: float | None
    scratch_bytes: int
    argument_bytes: int
    total_bytes: int


def compile_program(fn: Callable[..., Any], args: tuple[Any, ...], *, warm: bool, steps: bool = False, **jit: Any) -> Program:
    """Compile `fn(*args)`; with `warm` a second time, from a persistent cache that has only seen the first.

    The user's own cache is neither read nor written.

    Args:
        fn: anything that JAX can trace.
        args: arrays or `jax.ShapeDtypeStruct`s; with those, the program can't be run.
        warm: whether to compile twice.
        steps: `fn` returns its next first argument first. Each run is given that of the run before, in whose place it puts
            its own; `args[0]` is gone after the first.
        jit: options of `jax.jit`.
    """
    # Flat arguments: taking a model's thousand parameters apart is no part of a step within the sampler's scan.
    leaves, tree = jax.tree.flatten(args)
    first = len(jax.tree.leaves(args[0])) if steps else 0

    # Weights that are kept but not used take memory all the same.
    @functools.partial(jax.jit, keep_unused=True, donate_argnums=tuple(range(first)), **jit)
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

    def run() -> Any:
        out = jax.block_until_ready(compiled(*leaves))
        if steps:
            leaves[:first] = jax.tree.leaves(out[0])
        return out

    memory = compiled.memory_analysis()
    sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
    return Program(
        run,
        compiled,
        traced - started,
        ended - traced,
        warm_seconds,
        *sizes,
        sum(sizes) + memory.output_size_in_bytes - memory.alias_size_in_bytes,
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


def plan(name: str, program: Program) -> dict[str, Any]:
    """What compiling a program says, named after it."""
    warm = program.warm_compile_seconds
    return {
        f"{name}_trace_seconds": program.trace_seconds,
        f"{name}_compile_seconds": program.compile_seconds,
        f"{name}_scratch_bytes": program.scratch_bytes,
        f"{name}_argument_bytes": program.argument_bytes,
    } | ({} if warm is None else {f"{name}_compile_seconds_warm": warm})


def timed(name: str, program: Program, repeats: int, operations: int) -> dict[str, Any]:
    """What running a program says, named after it."""
    progress(f"timing {name}")
    host_memory.reset()
    seconds = interleaved({name: program.run}, repeats)[name]
    result = summary(f"{name}_seconds", seconds)
    return result | {
        f"{name}_flops_per_second": operations / result[f"{name}_seconds"],
        f"{name}_peak_bytes": peak_bytes(),
    }


def progress(message: str) -> None:
    """Say on standard error what is being done."""
    print(f"{message} ...", file=sys.stderr, flush=True)


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


def against_matmul(name: str, rate: float, dtype: Any) -> dict[str, Any]:
    """What a device can do at most, and the share of it that a program reaches with `rate` operations a second."""
    progress("timing a large matrix product")
    size, limit = matmul_limit(dtype)
    return {"matmul_size": size, "matmul_flops_per_second": limit, f"{name}_share_of_matmul": rate / limit}


def peak_bytes() -> int:
    """The most memory used so far: of an accelerator by JAX's arrays and programs, of a CPU by the process (resident)."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else host_memory.peak()


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
    return f"{model}, {xla_options.cores()} cores (cpu)"
