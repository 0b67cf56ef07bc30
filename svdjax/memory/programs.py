"""Compiled programs: the memory that they need, the memory layouts of their arguments; the phases of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Format

from svdjax.devices.budget import GIB


@dataclass(frozen=True, kw_only=True)
class Program:
    """A function to compile, with its arguments.

    Attributes:
        name: for messages, such as `dual_step`.
        fn: the function; a jitted function is compiled as it is.
        args: its positional arguments: pytrees of arrays or `jax.ShapeDtypeStruct`s.
        jit: options of `jax.jit`, such as `donate_argnums`; empty for a function that is jitted already.
        static: keyword arguments that are not arrays.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    jit: Mapping[str, Any] = field(default_factory=dict)
    static: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Any:
        """Hashable; equal for programs of the same function with arguments of the same shapes."""
        leaves, tree = jax.tree.flatten((self.args, dict(self.static)))
        return self.name, self.fn, tree, tuple((x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves)

    def lower(self, place: Callable[[Any], Any] = lambda args: args) -> Any:
        """Lower the program, for compilation.

        Args:
            place: maps the arguments to those that are lowered, for example with the shardings of another device.
        """
        jitted: Any = self.fn if hasattr(self.fn, "lower") else jax.jit(self.fn, **self.jit)
        return jitted.lower(*place(self.args), **self.static)


@dataclass(frozen=True)
class ProgramMemory:
    """Memory of a compiled program on one device, in bytes.

    Attributes:
        scratch_bytes: intermediates.
        argument_bytes: arguments.
        result_bytes: results, without those that reuse the memory of arguments.
    """

    scratch_bytes: int
    argument_bytes: int
    result_bytes: int


Compile = Callable[[Program], ProgramMemory]


def memory_of(compiled: Any) -> ProgramMemory:
    """Memory of a compiled program, as planned by XLA.

    Args:
        compiled: from `jax.stages.Lowered.compile`.
    """
    plan = compiled.memory_analysis()
    reused = plan.alias_size_in_bytes
    return ProgramMemory(plan.temp_size_in_bytes, plan.argument_size_in_bytes, plan.output_size_in_bytes - reused)


def compile_here(program: Program) -> ProgramMemory:
    """Compile a program for JAX's default device; a call with arrays committed to the device finds it in JAX's cache."""
    return memory_of(lower_here(program).compile())


def lower_here(program: Program) -> Any:
    """Lower a program for JAX's default device; see `compile_here`."""
    here = jnp.zeros(()).sharding

    def committed(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here)

    return program.lower(lambda args: jax.tree.map(committed, args))


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run, with the memory that it needs on the device.

    Attributes:
        name: such as `encode`, `sample` or `decode`.
        resident_bytes: everything on the device besides the program's scratch: weights, latents, buffers, networks not in use.
        scratch_bytes: scratch of the phase's largest program, with its results where they are not resident.
        program: name of that program.
        unusable_bytes: free memory in pieces that are too small for the scratch of a program, at most.
    """

    name: str
    resident_bytes: int
    scratch_bytes: int
    program: str
    unusable_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the phase."""
        return self.resident_bytes + self.scratch_bytes

    @property
    def needed_bytes(self) -> int:
        """Memory that a device must have for the phase."""
        return self.peak_bytes + self.unusable_bytes


def peak_bytes(phases: Iterable[Phase]) -> int:
    """Peak memory over several phases."""
    return max(phase.peak_bytes for phase in phases)


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of a pytree, or of `jax.ShapeDtypeStruct`s."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def plan_lines(budget_bytes: int, how: Sequence[str], phases: Sequence[Phase]) -> list[str]:
    """Lines for the user: what is done within the budget and what it costs, then the peak of each phase."""
    peaks = ", ".join(f"{phase.name} {phase.peak_bytes / GIB:.3g}" for phase in phases)
    return [f"plan for {budget_bytes / GIB:.3g} GiB: {'; '.join(how)}", f"planned peaks in GiB: {peaks}"]


def in_formats(tree: Any, formats: Any) -> Any:
    """Arrays in other memory layouts, moved one after the other. Arrays that have another layout are deleted.

    Args:
        tree: the arrays.
        formats: their formats; arrays that the program doesn't use have a format without a layout.
    """
    arrays, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, [_in_format(x, f) for x, f in zip(arrays, jax.tree.leaves(formats), strict=True)])


def _in_format(x: Any, format: Format) -> Array:
    if format.layout is None or x.format.layout == format.layout:
        return x
    moved = jax.device_put(x, format)
    x.delete()
    return moved
