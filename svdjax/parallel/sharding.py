"""Where tensors lie on a mesh: one table of path patterns, and what follows from it. Models never mention meshes.

Under `fsdp` every matrix and kernel is divided for storage and gathered where it is used (`gathered`). Under `tensor` pairs
of layers are divided as they compute: the first by its outputs, the second by its inputs, so that one sum per pair is sent.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from svdjax.config import NORM_GROUPS
from svdjax.memory.rematerialise import RunBlock
from svdjax.parallel.mesh import BATCH_AXES

AnyMesh = Mesh | AbstractMesh
Shape = Sequence[int]
Builder = Callable[[Shape, Mapping[str, int]], P]

SMALL = 1024  # tensors of fewer elements lie whole on every device, as all vectors do
HEAD = 64  # channels of an attention head of SVD, which `tensor` keeps together


def _whole(shape: Shape, sizes: Mapping[str, int]) -> P:
    return P()


def _divided(shape: Shape, sizes: Mapping[str, int], *, tensor: int | None = None, unit: int = 1) -> P:
    """`tensor` over the axis of that number, in multiples of `unit`; `fsdp` over the largest other axis it divides."""
    spec: list[str | None] = [None] * len(shape)
    if tensor is not None and sizes["tensor"] > 1 and shape[tensor] % (unit * sizes["tensor"]) == 0:
        spec[tensor] = "tensor"
    free = [i for i, size in enumerate(shape) if spec[i] is None and size % sizes["fsdp"] == 0]
    if sizes["fsdp"] > 1 and math.prod(shape) >= SMALL and free:
        spec[max(free, key=lambda i: (shape[i], i))] = "fsdp"
    return P(*spec)


def _outputs(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-1)


def _inputs(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-2)


def _output_heads(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-1, unit=HEAD)


def _input_heads(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-2, unit=HEAD)


def _output_groups(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-1, unit=max(shape[-1] // NORM_GROUPS, 1))  # whole groups of the norm that follows


def _input_groups(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-2, unit=max(shape[-2] // NORM_GROUPS, 1))


# How names end -> what becomes of the shape. Every tensor of the three networks matches exactly one.
RULES: tuple[tuple[str, Builder], ...] = (
    (r"bias|scale|mix_factor|class_embedding", _whole),
    (r"head\.kernel", _whole),  # `svdjax.losses.facts`
    # UNet: attention by heads, residual blocks by groups of norm2
    (r"attn[12]\.to_[qkv]\.kernel", _output_heads),
    (r"attn[12]\.to_out\.kernel", _input_heads),
    (r"(?:conv1|time_emb_proj)\.kernel", _output_groups),
    (r"conv2\.kernel", _input_groups),
    # GEGLU
    (r"ff(?:_in)?\.proj_in\.kernel", _outputs),
    (r"ff(?:_in)?\.proj_out\.kernel", _inputs),
    # CLIP
    (r"self_attn\.[qkv]_proj\.kernel|fc1\.kernel", _outputs),
    (r"self_attn\.out_proj\.kernel|fc2\.kernel", _inputs),
    # the UNet's layers outside its blocks, 0.3 % of it, which are therefore not gathered; in the VAE they are tiny
    (r"(?:time_embedding|add_embedding)\.linear_[12]\.kernel|(?:conv_in|conv_out|time_conv_out)\.kernel", _whole),
    # divided for storage alone
    (r"(?<!ff\.)(?<!ff_in\.)proj_(?:in|out)\.kernel", _divided),
    (r"(?<!attn1\.)(?<!attn2\.)to_(?:q|k|v|out)\.kernel", _divided),  # the VAE's attention has a single head
    (r"time_pos_embed\.linear_[12]\.kernel", _divided),
    (r"(?:conv|conv_shortcut|quant_conv|patch_embedding|visual_projection)\.kernel|position_embedding\.embedding", _divided),
)
_PATTERNS = [(re.compile(rf"(?:.*\.)?(?:{pattern})"), builder) for pattern, builder in RULES]


def rules_of(name: str) -> list[Builder]:
    """The builders whose patterns match a tensor's name: exactly one for every tensor there is."""
    return [builder for pattern, builder in _PATTERNS if pattern.fullmatch(name)]


def sharding_of(name: str, shape: Shape, mesh: AnyMesh) -> NamedSharding:
    """Where a tensor lies.

    Args:
        name: dotted, such as `unet.conv_in.kernel`; what comes before the layer doesn't matter, so names relative to a
            block and names within an optimizer's state do as well.
        shape: the whole tensor's.
        mesh: of `svdjax.parallel.mesh.make_mesh`, or an abstract one with its axes.

    Raises:
        ValueError: a name that matches no rule. Scalars need none.
    """
    builders = [_whole] if len(shape) == 0 else rules_of(name)
    if len(builders) != 1:
        raise ValueError(f"{name}, shape {tuple(shape)}: matches {len(builders)} rules of `RULES`, expected one")
    return NamedSharding(mesh, builders[0](tuple(shape), mesh.shape))


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """The leading axis of a batch over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def shardings(mesh: AnyMesh) -> Callable[[str, Shape], NamedSharding]:
    """`sharding_of` for one mesh, as `svdjax.load` takes it."""
    return functools.partial(sharding_of, mesh=mesh)


def like_tree(tree: Any, mesh: AnyMesh) -> Any:
    """`sharding_of` of every leaf of a tree, by its path: parameters by dotted name, or an optimizer's state over them."""
    return _map_named(lambda name, leaf: sharding_of(name, leaf.shape, mesh), tree, "")


def device_bytes(leaves: Mapping[str, Any], mesh: AnyMesh) -> int:
    """Bytes of arrays, or of `jax.ShapeDtypeStruct`s, by name, that lie on each device."""
    return sum(
        math.prod(sharding_of(name, leaf.shape, mesh).shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        for name, leaf in leaves.items()
    )


def gathered(tree: Any, mesh: Mesh, name: str = "", after: Array | None = None) -> Any:
    """The same tree with every leaf whole over `fsdp`, for use within a jitted function; `tensor` stays.

    Called within what a gradient computes again (`run_gathered`), the gathered copies are dropped after the block and
    gathered again for its backward pass. Gradients come back as they fall: constrain them, once they are summed over the
    batch, to `like_tree`.

    Args:
        tree: an `nnx.Module`, its state, or a mapping of dotted names.
        mesh: that `sharding_of` placed the leaves on.
        name: the module's own, where it is a single layer or its leaves' names don't tell them apart (`ff`).
        after: an array to wait for. Otherwise XLA may gather everything at the start, or once for several uses, and keep
            it; on a CPU it still may.
    """
    if mesh.shape["fsdp"] == 1:
        return tree

    after = jnp.zeros(()) if after is None else jax.lax.stop_gradient(after).ravel()[0]

    def gather(leaf_name: str, leaf: Array) -> Array:
        stored = sharding_of(leaf_name, leaf.shape, mesh)
        used = NamedSharding(mesh, P(*(None if axis == "fsdp" else axis for axis in stored.spec)))
        return leaf if used.spec == stored.spec else _gather(leaf, after, used)

    return _map_named(gather, tree, name)


def run_gathered(mesh: Mesh, run: RunBlock) -> RunBlock:
    """A way to run a UNet's blocks (its `run_block`): each is gathered for its own time only, and then run by `run`.

    Both passes of training need it. Where weights are used as they lie, XLA divides activations by channels instead, and
    those are larger.
    """
    return lambda block, *args: run(_Gathered(block, mesh), *args)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Gathered:
    """A block that gathers its weights when it is called."""

    block: nnx.Module  # called with an array first
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    def __call__(self, *args: Any) -> Any:
        return gathered(self.block, self.mesh, after=args[0])(*args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _gather(x: Array, after: Array, used: NamedSharding) -> Array:
    x, _ = jax.lax.optimization_barrier((x, after))
    return jax.lax.with_sharding_constraint(x, used)


def _gather_fwd(x: Array, after: Array, used: NamedSharding) -> tuple[Array, Array]:
    return _gather(x, after, used), after


def _gather_bwd(used: NamedSharding, after: Array, gradient: Array) -> tuple[Array, Array]:
    # A constraint's own derivative is the same constraint. Here it would have every device hold all clips' gradients, where
    # they are not summed yet.
    return gradient, jnp.zeros_like(after)


_gather.defvjp(_gather_fwd, _gather_bwd)


def _map_named(fn: Callable[[str, Any], Any], tree: Any, prefix: str) -> Any:
    """`fn(dotted name, leaf)` of every leaf."""

    def named(path: tuple[Any, ...], leaf: Any) -> Any:
        keys = [prefix] * bool(prefix) + [jax.tree_util.keystr((key,), simple=True) for key in path]
        return fn(".".join(keys[:-1] if keys[-1:] == ["value"] else keys), leaf)  # `value` is that of an `nnx.Param`

    return jax.tree_util.tree_map_with_path(named, tree)
