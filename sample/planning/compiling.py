"""Compile programs for a GPU that need not be present. Needs the extra `cuda`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

from sample.benchmarking import flops
from sample.benchmarking.timing import progress
from sample.planning.targets import Card, description
from svdjax.devices.target import NVIDIA_GPU, made_for
from svdjax.errors import InputError
from svdjax.kernels.choice import XLA, kernels
from svdjax.memory.programs import Program

DEVICES_OF_HOST = 8  # at most
# There is no GPU to measure kernels on. jaxlib 0.11 has an option for cuDNN without a GPU,
# `xla_gpu_cudnn_deviceless_compilation_mode`; it needs NVIDIA's driver, and all programs compile without it.
_OPTIONS: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Attributes:
        program: JAX's compiled program, which can't be run.
        flops: its floating-point operations, on all devices together.
        seconds: time of tracing and compiling.
    """

    program: Any
    flops: int
    seconds: float


def start_without_gpu() -> None:
    """Keep JAX from starting a GPU, if there is one. Has no effect if JAX has already started."""
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")


def devices_of(card: Card, count: int = 1) -> list[Any]:
    """Devices to compile for, of one host, or of hosts of `DEVICES_OF_HOST`.

    Raises:
        InputError: the extra is missing.
    """
    start_without_gpu()
    hosts = max(1, count // DEVICES_OF_HOST)
    shape = f"1x{hosts}x{count // hosts}"
    try:
        topology = topologies.get_topology_desc(shape, "cuda", target_config=description(card), topology=shape)
    except NotImplementedError:
        raise InputError('--target: JAX\'s GPU compiler is not available: pip install -e ".[cuda]"') from None
    return topology.devices


def compile_for(device: Any, program: Program) -> Compiled:
    """Compile a program.

    Args:
        device: from `devices_of`. The program is for this device, unless its arguments have shardings.
        program: if its arguments have shardings, these are on devices of the same call of `devices_of`.
    """
    described = [x for x in jax.tree.leaves(program.args) if isinstance(x, jax.ShapeDtypeStruct)]
    here = None if any(x.sharding is not None for x in described) else SingleDeviceSharding(device)

    def place(x: Any) -> Any:
        if not hasattr(x, "shape"):
            return x  # a number
        given = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None  # an array's is on a local device
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=given or here)

    with made_for(NVIDIA_GPU), _without_cache():
        started = time.perf_counter()
        jitted: Any = program.fn if hasattr(program.fn, "trace") else jax.jit(program.fn, **program.jit)
        args = jax.tree.map(place, program.args)
        traced = jitted.trace(*args, **program.static)
        compiled = _compile(traced.lower(), program.name)
        seconds = time.perf_counter() - started
        if kernels() == XLA:
            return Compiled(compiled, flops.count_traced(traced.jaxpr), seconds)
        # a jitted function with compiler options can't be traced within another one
        plain = functools.partial(inspect.unwrap(program.fn), **program.static)
        return Compiled(compiled, flops.count(plain, *args), seconds)


def _compile(lowered: Any, name: str) -> Any:
    try:
        return lowered.compile(_OPTIONS)
    except jax.errors.JaxRuntimeError as e:
        # With a GPU, XLA tries several tiles for a matrix product, and cuBLAS. Its default tiles fail for some small products.
        if "Couldn't find output tile sizes" not in str(e):
            raise
        progress(f"compiling {name} again: XLA's default kernels for matrix products failed, cuBLAS is used instead")
        return lowered.compile(_OPTIONS | {"xla_gpu_enable_triton_gemm": False})


def announce(program: Program, card: Card) -> None:
    """Report on standard error that a program is going to be compiled, which takes minutes at full size."""
    progress(f"compiling {program.name} for {card.title}")


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Use no persistent cache within the block: its programs have no text, and no device here could load them."""
    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    compilation_cache.reset_cache()  # JAX decides only once whether it uses its cache
    try:
        yield
    finally:
        jax.config.update(name, before)
        compilation_cache.reset_cache()
