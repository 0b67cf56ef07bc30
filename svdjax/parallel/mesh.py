"""Meshes of devices: the text of `--mesh`, the order of the devices, the batches that fit, and the line that says so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from svdjax.errors import InputError

AXES = ("data", "fsdp", "tensor")  # copies of the weights; weights divided for storage; weights divided for computing
BATCH_AXES = ("data", "fsdp")  # those that a batch is divided over
DEFAULT = "data=-1"
_RESERVED = ("context",)


def parse_mesh(text: str) -> dict[str, int]:
    """The sizes that `--mesh` asks for, such as `data=2,fsdp=4`, in the order given; `:` stands for `=` as well.

    Raises:
        InputError: an axis that doesn't exist or comes twice, a size that isn't a positive number or -1, or two of -1.
    """
    where, sizes = f"--mesh {text.strip()}", {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*[=:]\s*(.*?)\s*", part)
        if match is None:
            raise InputError(f"{where}: {part.strip()!r} is not AXIS=NUMBER, as in data=2,fsdp=4")
        axis, number = match.groups()
        if axis in _RESERVED:
            raise InputError(f"{where}: axis {axis} is not there yet, expected {', '.join(AXES)}")
        if axis not in AXES:
            raise InputError(f"{where}: unknown axis {axis!r}, expected {', '.join(AXES)}")
        if axis in sizes:
            raise InputError(f"{where}: axis {axis} is given twice, {sizes[axis]} and {number}")
        if not re.fullmatch(r"-?\d{1,9}", number, re.ASCII):
            raise InputError(f"{where}: {axis} is {number!r}, expected a whole number")
        sizes[axis] = int(number)
        if sizes[axis] < 1 and sizes[axis] != -1:
            raise InputError(f"{where}: {axis} is {number}, expected 1 or more, or -1 for the devices that remain")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise InputError(f"{where}: {' and '.join(open_axes)} are both -1, expected at most one")
    return sizes


def mesh_sizes(spec: str | Mapping[str, int], devices: int) -> dict[str, int]:
    """`parse_mesh`, with -1 replaced by what `devices` devices leave for it.

    Raises:
        InputError: as `parse_mesh`, or sizes whose product is not the number of devices.
    """
    sizes = parse_mesh(spec) if isinstance(spec, str) else dict(spec)
    where = "--mesh " + ",".join(f"{axis}={size}" for axis, size in sizes.items())
    product = math.prod(size for size in sizes.values() if size != -1)
    given = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
    there = f"{devices} device{'s' * (devices != 1)}"
    for axis, size in sizes.items():
        if size == -1:
            if devices % product:
                raise InputError(f"{where}: {axis} can't be -1, because {given} = {product} does not divide {there}")
            return sizes | {axis: devices // product}
    if product != devices:
        raise InputError(f"{where}: {given} = {product}, expected {there}, all that there are (-1 stands for what remains)")
    return sizes


def make_mesh(spec: str | Mapping[str, int] = DEFAULT, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that `--mesh` asks for.

    Args:
        spec: its text, or sizes by axis, in order.
        devices: all devices of all processes if left out.

    Returns:
        A mesh that has all of `AXES`, in that order; those that were not given have size 1. The first axis given varies
        slowest over the devices, host by host, so it is the one that crosses hosts, and later ones stay within a host as
        far as its devices reach. A later axis larger than that spans whole neighbouring hosts.

    Raises:
        InputError: `mesh_sizes`.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(spec, len(devices))
    # Not `jax.make_mesh`, which refuses GPUs of several hosts. NVIDIA GPUs of one `slice_index` share NVLink.
    devices = sorted(devices, key=lambda d: (getattr(d, "slice_index", None) or 0, d.process_index, d.id))
    given = [*sizes, *(axis for axis in AXES if axis not in sizes)]
    grid = np.array(devices).reshape([sizes.get(axis, 1) for axis in given])
    grid = grid.transpose([given.index(axis) for axis in AXES])
    # Automatic axes: with explicit ones, JAX rejects some of the UNet's reshapes.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Hold a global batch against a mesh: each of `accumulate` parts must be divisible over `BATCH_AXES`.

    Raises:
        InputError: it isn't; the message has the numbers and the nearest batches that are.
    """
    factors = {axis: mesh.shape[axis] for axis in BATCH_AXES} | {"accumulate": accumulate}
    product = math.prod(factors.values())
    if batch_size < 1 or batch_size % product:
        below = batch_size // product * product
        nearest = f"{below} or {below + product}" if below > 0 else f"{product}"
        factors = " x ".join(f"{name} {size}" for name, size in factors.items())
        raise InputError(f"--batch-size {batch_size}: expected a multiple of {factors} = {product}, such as {nearest}")


def describe(mesh: Mesh, batch_size: int, hosts: Sequence[str] | None = None) -> str:
    """One line for the start of a run, such as `1 host, 8 devices (cpu), mesh data=2 fsdp=4, global batch 8`.

    Args:
        mesh: of `make_mesh`.
        batch_size: the global batch.
        hosts: the name of each process's host, in order (`svdjax.parallel.cluster.host_names`); one a process if left out.
    """
    processes = 1 + max(d.process_index for d in mesh.devices.flat)
    names = [str(i) for i in range(processes)] if hosts is None else hosts
    host = np.vectorize(lambda d: names[d.process_index], otypes=[object])(mesh.devices)
    across = [axis for i, axis in enumerate(AXES) if (host != host.take([0], i)).any()]
    sizes = {axis: size for axis, size in mesh.shape.items() if size > 1} or {"data": 1}

    def count(n: int, what: str) -> str:
        return f"{n} {what}{'s' * (n != 1)}".replace("processs", "processes")

    several = len(set(host.flat))
    parts = [
        count(several, "host"),
        *([count(processes, "process")] if processes != several else []),
        f"{count(mesh.size, 'device')} ({mesh.devices.flat[0].device_kind})",
        "mesh "
        + " ".join(f"{a}={n}" for a, n in sizes.items())
        + (f" ({' and '.join(across)} across hosts)" if across else ""),
        f"global batch {batch_size}",
    ]
    return ", ".join(parts)
