"""Compile and time JAX programs: compile time, run time, memory, and the speed limit of the device."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from sample.benchmarking import host_memory
from sample.benchmarking.results import MatmulLimit, ProgramPlan, ProgramTiming, Timings
from svdjax.devices import xla_options
from svdjax.memory.programs import in_formats

_CACHE_OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")
# Side of the matrices and number of products per run: limited by arithmetic, not by launches, and done within a second.
_MATMUL = {"cpu": (2048, 1), "gpu": (8192, 8)}
_MATMUL_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled function with its arguments bound.

    Attributes:
        run: function that runs the program once, waits for the result and returns it.
        compiled: JAX's compiled program; None for several programs.
        arguments: of the first run, in the memory layouts that the program chose.
        plan: compile times and memory.
        restart: with `steps`, a function of another first argument, with which the next run begins.
    """

    run: Callable[[], Any]
    compiled: Any
    arguments: tuple[Any, ...]
    plan: ProgramPlan
    restart: Callable[[Any], None] | None = None


def compile_program(fn: Callable[..., Any], args: tuple[Any, ...], *, warm: bool, steps: bool = False, **jit: Any) -> Program:
    """Compile `fn(*args)`. The user's compilation cache is neither read nor written.

    Args:
        fn: anything that JAX can trace.
        args: arrays or `jax.ShapeDtypeStruct`s; with the latter the program can't be run. Arrays for which the program chooses
            another memory layout are deleted, see `Program.arguments`.
        warm: compile a second time, from a persistent cache that holds only this program.
        steps: whether the first result of `fn` is the first argument of the next run. Each run reuses the memory of this
            argument, so the first run deletes `args[0]`.
        **jit: options of `jax.jit`, except `donate_argnums`.
    """
    # Flat arguments: flattening a model's thousand parameters is not part of a step within the sampler's scan.
    leaves, tree = jax.tree.flatten(args)
    first = len(jax.tree.leaves(args[0])) if steps else 0
    described = leaves
    if "in_shardings" in jit:  # may leave layouts to the program; then it is lowered without those of arrays
        jit["in_shardings"] = jax.tree.leaves(jit["in_shardings"])
        described = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for x in leaves]

    # keep_unused: unused weights take memory too.
    @functools.partial(jax.jit, keep_unused=True, donate_argnums=tuple(range(first)), **jit)
    def flat(*leaves: Any) -> Any:
        return fn(*jax.tree.unflatten(tree, leaves))

    with fresh_cache() as folder:
        started = time.perf_counter()
        lowered = flat.lower(*described)
        traced = time.perf_counter()
        compiled = lowered.compile()
        ended = time.perf_counter()
        warm_seconds = None
        if warm and any(folder.iterdir()):
            jax.clear_caches()
            lowered = flat.lower(*described)
            restarted = time.perf_counter()
            compiled = lowered.compile()
            warm_seconds = time.perf_counter() - restarted

    if "in_shardings" in jit and isinstance(leaves[0], jax.Array):
        leaves = in_formats(leaves, compiled.input_formats[0])
    arguments = jax.tree.unflatten(tree, leaves)

    def run() -> Any:
        out = jax.block_until_ready(compiled(*leaves))
        if steps:
            leaves[:first] = jax.tree.leaves(out[0])
        return out

    def restart(argument: Any) -> None:
        leaves[:first] = jax.tree.leaves(argument)

    plan = _plan(compiled, traced - started, ended - traced, warm_seconds)
    return Program(run=run, compiled=compiled, arguments=arguments, plan=plan, restart=restart if steps else None)


def _plan(compiled: Any, trace_seconds: float, compile_seconds: float, warm_seconds: float | None) -> ProgramPlan:
    memory = compiled.memory_analysis()
    scratch, arguments = memory.temp_size_in_bytes, memory.argument_size_in_bytes
    return ProgramPlan(
        trace_seconds=trace_seconds,
        compile_seconds=compile_seconds,
        compile_seconds_warm=warm_seconds,
        scratch_bytes=scratch,
        argument_bytes=arguments,
        total_bytes=scratch + arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes,
    )


@contextlib.contextmanager
def fresh_cache() -> Iterator[Path]:
    """Use an empty persistent compilation cache that stores every program, within the block."""
    saved = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}
    with tempfile.TemporaryDirectory(prefix="svdjax-benchmark-") as folder:
        for name, value in zip(_CACHE_OPTIONS, (folder, True, 0.0), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX opens its cache once and ignores later changes of the folder
        try:
            yield Path(folder)
        finally:
            for name, value in saved.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Timings]:
    """Time `runs` alternately, each `repeats` times, after one warm-up run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if i > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timings(values) for name, values in seconds.items()}


def time_program(name: str, program: Program, repeats: int) -> ProgramTiming:
    """Time a compiled program, and measure its peak memory."""
    progress(f"timing {name}")
    host_memory.reset()
    before = peak_bytes()
    seconds = interleaved({name: program.run}, repeats)[name]
    return ProgramTiming(seconds, peak_bytes(), before)


def progress(message: str) -> None:
    """Report the current task on standard error."""
    print(f"{message} ...", file=sys.stderr, flush=True)


def matmul_limit(dtype: Any) -> MatmulLimit:
    """Measure the speed of a large square matrix product on the default device: the fastest of several tries."""
    progress("timing a large matrix product")
    size, calls = _MATMUL.get(jax.default_backend(), _MATMUL["gpu"])
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, b))
    best = float("inf")
    for _ in range(_MATMUL_TRIES):
        started = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(calls)])
        best = min(best, time.perf_counter() - started)
    return MatmulLimit(size, calls * 2 * size**3 / best)


def peak_bytes() -> int:
    """Peak memory so far: of JAX on an accelerator, of the whole process (resident) on a CPU."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else host_memory.peak()


def device_name() -> str:
    """The name of the default device."""
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
