"""Device meshes: the option `--mesh`, the order of devices, valid batch sizes, and a description in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from svdjax.errors import InputError

AXES = ("data", "fsdp", "tensor")  # copies of the weights; weights sharded for storage; weights sharded for computation
BATCH_AXES = ("data", "fsdp")  # the clips of a batch are divided over these
# of sampling: clips; predictions without and with conditioning; rows and columns of every frame; weights sharded for storage
SAMPLING_AXES = ("data", "guidance", "rows", "columns", "fsdp")
DEFAULT = "data=-1"
_RESERVED = ("context",)


def parse_mesh(text: str, axes: Sequence[str] = AXES) -> dict[str, int]:
    """Axis sizes from the text of `--mesh`, such as `data=2,fsdp=4`, in that order. `:` is accepted for `=`.

    Args:
        text: value of the option.
        axes: the known axes.

    Raises:
        InputError: an unknown or repeated axis, a size that isn't a positive number or -1, or more than one -1.
    """
    where = f"--mesh {text.strip()}"
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)\s*[=:]\s*(.*?)\s*", part)
        if match is None:
            raise InputError(f"{where}: {part.strip()!r} is not AXIS=NUMBER, as in data=2,fsdp=4")
        axis, number = match.groups()
        if axis in sizes:
            raise InputError(f"{where}: axis {axis} is given twice, {sizes[axis]} and {number}")
        sizes[axis] = _axis_size(where, axis, number, axes)
    remaining = [axis for axis, size in sizes.items() if size == -1]
    if len(remaining) > 1:
        raise InputError(f"{where}: {' and '.join(remaining)} are both -1, expected at most one")
    return sizes


def _axis_size(where: str, axis: str, number: str, axes: Sequence[str]) -> int:
    if axis in _RESERVED:
        raise InputError(f"{where}: axis {axis} is not implemented yet, expected {', '.join(axes)}")
    if axis not in axes:
        raise InputError(f"{where}: unknown axis {axis!r}, expected {', '.join(axes)}")
    if not re.fullmatch(r"-?\d{1,9}", number, re.ASCII):
        raise InputError(f"{where}: {axis} is {number!r}, expected a whole number")
    size = int(number)
    if size < 1 and size != -1:
        raise InputError(f"{where}: {axis} is {number}, expected 1 or more, or -1 for the remaining devices")
    return size


def mesh_sizes(spec: str | Mapping[str, int], devices: int, axes: Sequence[str] = AXES) -> dict[str, int]:
    """Axis sizes for a number of devices: a size of -1 is replaced so that their product is the number of devices.

    Args:
        spec: the text of `--mesh`, or sizes by axis.
        devices: number of devices.
        axes: the known axes.

    Raises:
        InputError: see `parse_mesh`, or the product of the sizes is not the number of devices.
    """
    sizes = parse_mesh(spec, axes) if isinstance(spec, str) else dict(spec)
    where = "--mesh " + ",".join(f"{axis}={size}" for axis, size in sizes.items())
    product = math.prod(size for size in sizes.values() if size != -1)
    given = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != -1)
    count = _count(devices, "device")
    for axis, size in sizes.items():
        if size == -1:
            if devices % product:
                raise InputError(f"{where}: {axis} can't be -1, because {given} = {product} does not divide {count}")
            return sizes | {axis: devices // product}
    if product != devices:
        raise InputError(f"{where}: {given} = {product}, expected {count} in total (-1 stands for the remaining devices)")
    return sizes


def make_mesh(
    spec: str | Mapping[str, int] = DEFAULT, devices: Sequence[Any] | None = None, axes: Sequence[str] = AXES
) -> Mesh:
    """Make the mesh of `--mesh`.

    Args:
        spec: the text of `--mesh`, or sizes by axis, in order.
        devices: default: all devices of all processes.
        axes: `AXES` or `SAMPLING_AXES`.

    Returns:
        A mesh with all of `axes`, in that order; axes that are not in `spec` have size 1. The first axis of `spec` varies
        slowest over the devices, which are sorted by host. So the first axis crosses hosts. A later axis stays within a
        host if the host has enough devices; otherwise it spans whole neighbouring hosts.

    Raises:
        InputError: see `mesh_sizes`.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = mesh_sizes(spec, len(devices), axes)
    # `jax.make_mesh` refuses GPUs of several hosts. NVIDIA GPUs with the same `slice_index` share NVLink.
    devices = sorted(devices, key=lambda d: (getattr(d, "slice_index", None) or 0, d.process_index, d.id))
    given = [*sizes, *(axis for axis in axes if axis not in sizes)]
    grid = np.array(devices).reshape([sizes.get(axis, 1) for axis in given])
    grid = grid.transpose([given.index(axis) for axis in axes])
    # Automatic axes: with explicit ones, JAX rejects some of the UNet's reshapes.
    return Mesh(grid, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Check that each of the `accumulate` parts of a global batch can be divided over `BATCH_AXES`.

    Raises:
        InputError: it can't; the message gives the nearest valid batch sizes.
    """
    factors = {axis: mesh.shape[axis] for axis in BATCH_AXES} | {"accumulate": accumulate}
    product = math.prod(factors.values())
    if batch_size < 1 or batch_size % product:
        below = batch_size // product * product
        nearest = f"{below} or {below + product}" if below > 0 else f"{product}"
        factors = " x ".join(f"{name} {size}" for name, size in factors.items())
        raise InputError(f"--batch-size {batch_size}: expected a multiple of {factors} = {product}, such as {nearest}")


def describe(mesh: Mesh, batch_size: int | None = None, hosts: Sequence[str] | None = None) -> str:
    """One line that describes a run, such as `1 host, 8 devices (cpu), mesh data=2 fsdp=4, global batch 8`.

    Args:
        mesh: from `make_mesh`.
        batch_size: the global batch size, if the line should have it.
        hosts: host name of each process (`svdjax.parallel.cluster.host_names`); default: every process on its own host.
    """
    processes = 1 + max(d.process_index for d in mesh.devices.flat)
    names = [str(i) for i in range(processes)] if hosts is None else hosts
    host = np.vectorize(lambda d: names[d.process_index], otypes=[object])(mesh.devices)
    across = [axis for i, axis in enumerate(mesh.axis_names) if (host != host.take([0], i)).any()]
    sizes = {axis: size for axis, size in mesh.shape.items() if size > 1} or {"data": 1}
    host_count = len(set(host.flat))
    parts = [
        _count(host_count, "host"),
        *([_count(processes, "process", "processes")] if processes != host_count else []),
        f"{_count(mesh.size, 'device')} ({mesh.devices.flat[0].device_kind})",
        "mesh "
        + " ".join(f"{axis}={size}" for axis, size in sizes.items())
        + (f" ({' and '.join(across)} across hosts)" if across else ""),
        *([] if batch_size is None else [f"global batch {batch_size}"]),
    ]
    return ", ".join(parts)


def _count(n: int, singular: str, plural: str | None = None) -> str:
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
