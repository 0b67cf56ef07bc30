"""The mesh of a sampling run: `--mesh`, its checks against the clips, and the default for the devices that there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from svdjax.errors import InputError
from svdjax.parallel import sharding
from svdjax.parallel.divided import batch_parts
from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh
from svdjax.parallel.sharding import AnyMesh

Spec = str | Mapping[str, int] | Mesh
# n devices of an axis are about n to this power as fast as one: predictions are exchanged, or halos, statistics, keys and
# values. From the lower bounds of a step of SVD-XT on H200s, `sample.benchmark --target h200 --mesh`.
EFFICIENCY = {"guidance": 0.99, "columns": 0.85, "rows": 0.85}


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The clips of a run, as far as their division over devices depends on them.

    Attributes:
        pairs: pairs of keyframes, or images, that can be sampled together.
        guided: whether there are predictions without conditioning.
        sizes: (width, height) of the frames in pixels, for each size of the clips.
        pixels: pixels of a side that become one row or column at the UNet's lowest level.
    """

    pairs: int
    guided: bool
    sizes: tuple[tuple[int, int], ...]
    pixels: int

    def lowest(self, axis: str) -> int:
        """Largest number that divides the rows or the columns at the UNet's lowest level, of clips of every size."""
        return math.gcd(*(size[axis == "rows"] // self.pixels for size in self.sizes))


def sampling_mesh(spec: Spec, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `--mesh` for sampling.

    Args:
        spec: the text of `--mesh`, or sizes by axis; a mesh is returned as it is.
        devices: default: those of this process.

    Raises:
        InputError: see `svdjax.parallel.mesh.make_mesh`, or a mesh with other axes.
    """
    if isinstance(spec, Mesh):
        if spec.axis_names != SAMPLING_AXES:
            raise InputError(f"mesh has the axes {', '.join(map(str, spec.axis_names))}, expected {', '.join(SAMPLING_AXES)}")
        return spec
    return make_mesh(spec, jax.local_devices() if devices is None else devices, SAMPLING_AXES)


def all_devices() -> list[Any]:
    """The devices of all processes in turn, so that the first n are of as many processes as possible."""
    by_process: dict[int, list[Any]] = {}
    for device in sorted(jax.devices(), key=lambda device: (device.process_index, device.id)):
        by_process.setdefault(device.process_index, []).append(device)
    return [device for devices in zip(*by_process.values(), strict=True) for device in devices]


def check_frames(mesh: AnyMesh | Mapping[str, int], frames: Frames, where: str = "--mesh") -> None:
    """Check that every axis of a mesh divides what there is to divide.

    Args:
        mesh: a mesh, or its sizes by axis.
        frames: the clips.
        where: the option, for messages.

    Raises:
        InputError: an axis doesn't; the message has the numbers.
    """
    sizes = mesh if isinstance(mesh, Mapping) else mesh.shape
    if (data := sizes.get("data", 1)) > frames.pairs:
        pairs = "1 clip" if frames.pairs == 1 else f"{frames.pairs} clips"
        raise InputError(f"{where} data={data}: there is work for {pairs} at a time, expected at most {frames.pairs}")
    guidance = sizes.get("guidance", 1)
    if guidance > 2:
        raise InputError(f"{where} guidance={guidance}: expected 2, predictions without and with conditioning, or 1")
    if guidance == 2 and not frames.guided:
        raise InputError(f"{where} guidance=2: the run has no guidance, expected rows or columns instead")
    for axis in ("rows", "columns"):
        if frames.lowest(axis) % (parts := sizes.get(axis, 1)):
            sides = sorted({size[axis == "rows"] for size in frames.sizes})
            levels = ", ".join(f"{side} pixels are {side // frames.pixels} {axis}" for side in sides)
            expected = ", ".join(map(str, divisors(frames.lowest(axis))))
            raise InputError(f"{where} {axis}={parts}: {levels} at the UNet's lowest level, expected one of {expected}")


def default_sizes(devices: int, frames: Frames) -> dict[str, int]:
    """The division of a run's clips that is expected to be the fastest, by the shares of `EFFICIENCY`.

    Args:
        devices: number of devices.
        frames: the clips.

    Returns:
        Sizes of the axes that have more than one device; their product may be below `devices`.
    """
    choices = itertools.product(
        range(1, min(devices, frames.pairs) + 1),
        (1, 2)[: 1 + frames.guided],
        divisors(frames.lowest("columns")),
        divisors(frames.lowest("rows")),
    )

    def time(choice: tuple[int, ...]) -> float:
        """Rounds of the run, times the time of a round."""
        data, *parts = choice
        return -(-frames.pairs // data) / math.prod(n ** EFFICIENCY[axis] for axis, n in zip(axes[1:], parts, strict=True))

    axes = ("data", "guidance", "columns", "rows")
    best = min((choice for choice in choices if math.prod(choice) <= devices), key=time)
    return {axis: size for axis, size in zip(axes, best, strict=True) if size > 1}


def default_mesh(frames: Frames, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh of a run without `--mesh`, on the devices of this process; None for one device."""
    devices = jax.local_devices() if devices is None else devices
    sizes = default_sizes(len(devices), frames)
    return make_mesh(sizes, devices[: math.prod(sizes.values())], SAMPLING_AXES) if sizes else None


def shardings(mesh: Mesh) -> Any:
    """Placement of a model's tensors for `svdjax.load`: `fsdp` divides its networks; all else is copied."""

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        whole = name.startswith("backward.")  # small, and used by every block
        return sharding.replicated(mesh) if whole else sharding.sharding_of(name, shape, mesh)

    return place


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def clips_together(mesh: AnyMesh | None, batch: int) -> int:
    """Batches of `batch` clips that are sampled together, so that all devices have work."""
    parts = 1 if mesh is None else batch_parts(mesh)
    return parts // math.gcd(parts, batch)
