"""Run a function of clips on the devices of a sampling mesh, each on its share of the clips and of every frame's pixels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from svdjax.devices.division import Division, Parts, divided_by
from svdjax.devices.placing import put
from svdjax.memory.rematerialise import RunBlock, run_plainly
from svdjax.parallel import sharding
from svdjax.parallel.mesh import BATCH_AXES, SAMPLING_AXES
from svdjax.parallel.sharding import AnyMesh


def mesh_of(tree: Any) -> Mesh | None:
    """The sampling mesh that the arrays of a tree, such as a network, are placed on; None if they are placed otherwise."""
    mesh = getattr(getattr(jax.tree.leaves(tree)[0], "sharding", None), "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.axis_names == SAMPLING_AXES else None


def batch_parts(mesh: AnyMesh) -> int:
    """Number of parts that the clips of a batch are divided into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def placements(network: Any, batch: int) -> tuple[Mesh | None, Sharding, Sharding]:
    """The sampling mesh of a network, if it is on one; where to put arrays that all its devices use, and a batch of clips."""
    sharding, mesh = jax.tree.leaves(network)[0].sharding, mesh_of(network)
    given = getattr(sharding, "mesh", None)
    replicated = sharding if given is None else NamedSharding(given, P())
    return mesh, replicated, replicated if mesh is None else NamedSharding(mesh, batch_spec(mesh, batch))


@dataclass(frozen=True)
class Shares:
    """What each device of a mesh has of some clips.

    Attributes:
        batch: mesh axes that divide the clips of a batch.
        guidance: mesh axes that divide the predictions without and with conditioning.
        pixels: the division of every frame.
    """

    batch: tuple[str, ...]
    guidance: tuple[str, ...]
    pixels: Division

    def clips(self, lead: str = "b", *, image: bool = False) -> P:
        """The specification of an array of clips.

        Args:
            lead: the leading axes: g condition, b clip, another letter for an axis that isn't divided.
            image: whether frames, rows, columns and channels follow.
        """
        axes: list[Any] = [{"b": self.batch, "g": self.guidance}.get(letter) or None for letter in lead]
        if image:
            axes += [None, self.pixels.rows.axes or None, self.pixels.columns.axes or None, None]
        return P(*axes)

    def own(self, x: Array, lead: str, *, image: bool = False) -> Array:
        """This device's share of an array with all conditions and whole frames, inside `run_divided`; see `clips`."""
        for axis, names in self._divided(lead, image):
            size = x.shape[axis] // lax.axis_size(names)
            x = lax.dynamic_slice_in_dim(x, lax.axis_index(names) * size, size, axis)
        return x

    def gathered(self, x: Array, lead: str, *, image: bool = False) -> Array:
        """The opposite of `own`."""
        for axis, names in self._divided(lead, image):
            x = lax.all_gather(x, names, axis=axis, tiled=True)
        return x

    def _divided(self, lead: str, image: bool) -> list[tuple[int, Any]]:
        """Axes that conditions and pixels are divided along, with the names of their mesh axes."""
        alone = dataclasses.replace(self, batch=())
        return [(axis, names) for axis, names in enumerate(alone.clips(lead, image=image)) if names]


def shares(mesh: AnyMesh, batch: int, conditions: int, size: Sequence[int], multiple: int) -> Shares:
    """Shares of a batch of clips. What a mesh axis can't divide, all its devices compute.

    The devices of the axis `guidance` divide the pixels further where there is only one condition.

    Args:
        mesh: with the axes `SAMPLING_AXES`.
        batch: number of clips.
        conditions: 2, without and with conditioning, or 1.
        size: rows and columns of the latents.
        multiple: the rows and columns of each device are a multiple of this: the network halves them that often.
    """
    sizes = mesh.shape
    parts = {"rows": Parts(), "columns": Parts()}
    length = dict(zip(parts, size, strict=True))
    guided = sizes["guidance"] > 1 and conditions % sizes["guidance"] == 0
    for axis in ("rows", "columns", *([] if guided else ["guidance"])):
        for side in ("columns", "rows") if axis == "guidance" else (axis,):
            count = parts[side].count * sizes[axis]
            if sizes[axis] > 1 and length[side] % (multiple * count) == 0:
                # in the order of the mesh, which permutations between devices follow
                parts[side] = Parts(tuple(sorted((*parts[side].axes, axis), key=SAMPLING_AXES.index)), count)
                break
    return Shares(
        batch=BATCH_AXES if batch % batch_parts(mesh) == 0 else (),
        guidance=("guidance",) if guided else (),
        pixels=Division(parts["rows"], parts["columns"]),
    )


def run_divided(
    fn: Callable[..., Any], mesh: Mesh, pixels: Division, args: Sequence[Any], in_specs: Sequence[Any], out_specs: Any
) -> Any:
    """`fn(*args)` by all devices of a mesh, each with its share of the arguments; to be called in a jitted function.

    Args:
        fn: a pure function; its layers exchange what they need, see `svdjax.devices.division`.
        mesh: the devices.
        pixels: the division of every frame, see `shares`.
        args: pytrees of arrays.
        in_specs, out_specs: of the arguments and results, see `jax.shard_map`.
    """

    def run(*args: Any) -> Any:
        with divided_by(pixels):
            return fn(*args)

    # The check can't follow that gathered statistics are the same on every device.
    mapped = jax.shard_map(run, mesh=mesh, in_specs=tuple(in_specs), out_specs=out_specs, check_vma=False)
    return mapped(*args)


def batch_spec(mesh: AnyMesh, batch: int) -> P:
    """The specification of an array with a leading axis of `batch` clips; every device has all pixels of its clips."""
    return P(BATCH_AXES) if batch % batch_parts(mesh) == 0 else P()


def placed(tree: Any, mesh: Mesh) -> Any:
    """A network, or its tensors by name, on a mesh: divided over `fsdp` as `sharding.RULES` say, otherwise copies."""
    return jax.tree.map(put, tree, sharding.like_tree(tree, mesh))


def connect(mesh: Mesh) -> None:
    """Let the devices of several processes connect in all groups that programs on a mesh may use, before the long work.

    The processes compile a program at different times, and a CPU waits only 30 s for others to open a connection; later
    exchanges wait longer. Nothing happens on the devices of one process.
    """
    if jax.process_count() == 1 or not mesh.is_multi_process:
        return
    axes = [axis for axis, size in mesh.shape.items() if size > 1]
    groups = [group for count in range(1, len(axes) + 1) for group in itertools.combinations(axes, count)]

    def gather(x: Array) -> list[Array]:
        return [lax.all_gather(x, group) for group in groups]

    gathered = jax.shard_map(gather, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    jax.block_until_ready(jax.jit(gathered)(put(np.zeros(1, np.float32), NamedSharding(mesh, P()))))


def constrained(x: Array, mesh: Mesh, spec: P) -> Array:
    """`x` with a sharding on a mesh, inside a jitted function."""
    return lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Stored:
    """A device's part of a tensor that the axis `fsdp` divides along one of its axes."""

    part: Array
    axis: int = dataclasses.field(metadata={"static": True})

    def whole(self, after: Array) -> Array:
        """The whole tensor, gathered no earlier than `after` is there: otherwise XLA may gather all tensors first."""
        part, _ = lax.optimization_barrier((self.part, after))
        return lax.all_gather(part, "fsdp", axis=self.axis, tiled=True)


def stored_specs(tree: Any, mesh: Mesh) -> Any:
    """The specification of every weight of a network, see `sharding.RULES`."""
    return P() if mesh.shape["fsdp"] == 1 else jax.tree.map(lambda x: x.spec, sharding.like_tree(tree, mesh))


def with_stored(tree: Any, specs: Any) -> tuple[Any, RunBlock]:
    """A network inside `run_divided`, and a `run_block` that gathers the weights of a block while it runs.

    Args:
        tree: the device's parts of its weights.
        specs: from `stored_specs`.
    """
    if isinstance(specs, P):
        return tree, run_plainly

    def mark(x: Array, spec: P) -> Any:
        axes = tuple(spec)
        return _Stored(x, axes.index("fsdp")) if "fsdp" in axes else x

    def run(block: Any, *args: Any) -> Any:
        after = args[0].ravel()[0]
        whole = jax.tree.map(
            lambda x: x.whole(after) if isinstance(x, _Stored) else x, block, is_leaf=lambda x: isinstance(x, _Stored)
        )
        return whole(*args)

    return jax.tree.map(mark, tree, specs), run
