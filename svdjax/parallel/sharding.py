"""Sharding of tensors on a mesh, from one table of name patterns. Models never mention meshes.

Mesh axis `fsdp` divides every matrix and kernel for storage; they are gathered for use (`gathered`). Axis `tensor` divides the
computation of pairs of layers: the first by its outputs, the second by its inputs, which costs one all-reduce per pair.
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

from svdjax.config_checks import NORM_GROUPS
from svdjax.memory.rematerialise import RunBlock
from svdjax.parallel.mesh import BATCH_AXES

AnyMesh = Mesh | AbstractMesh
Shape = Sequence[int]
Builder = Callable[[Shape, Mapping[str, int]], P]

SMALL = 1024  # `fsdp` does not divide tensors with fewer elements
HEAD = 64  # channels of an attention head of SVD; `tensor` does not split heads


def _whole(shape: Shape, sizes: Mapping[str, int]) -> P:
    return P()


def _divided(shape: Shape, sizes: Mapping[str, int], *, tensor: int | None = None, unit: int = 1) -> P:
    """Divide axis `tensor` of `shape` over mesh axis `tensor` in multiples of `unit`, the largest other axis over `fsdp`."""
    spec: list[str | None] = [None] * len(shape)
    if tensor is not None and sizes.get("tensor", 1) > 1 and shape[tensor] % (unit * sizes["tensor"]) == 0:
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
    return _divided(shape, sizes, tensor=-1, unit=max(shape[-1] // NORM_GROUPS, 1))  # whole groups of the next GroupNorm


def _input_groups(shape: Shape, sizes: Mapping[str, int]) -> P:
    return _divided(shape, sizes, tensor=-2, unit=max(shape[-2] // NORM_GROUPS, 1))


# Pattern of the end of a name -> sharding of its shape. Every tensor of the three networks matches exactly one rule.
RULES: tuple[tuple[str, Builder], ...] = (
    (r"bias|scale|mix_factor|class_embedding", _whole),
    (r"head\.kernel", _whole),  # `svdjax.losses.facts`
    # UNet: attention by heads, residual blocks by the groups of norm2
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
    # layers outside the UNet's blocks, which `run_gathered` does not reach: 0.3 % of the UNet; in the VAE they are tiny
    (r"(?:time_embedding|add_embedding)\.linear_[12]\.kernel|(?:conv_in|conv_out|time_conv_out)\.kernel", _whole),
    # divided only for storage
    (r"(?<!ff\.)(?<!ff_in\.)proj_(?:in|out)\.kernel", _divided),
    (r"(?<!attn1\.)(?<!attn2\.)to_(?:q|k|v|out)\.kernel", _divided),  # the VAE's attention has a single head
    (r"time_pos_embed\.linear_[12]\.kernel", _divided),
    (r"(?:conv|conv_shortcut|quant_conv|patch_embedding|visual_projection)\.kernel|position_embedding\.embedding", _divided),
)
_PATTERNS = [(re.compile(rf"(?:.*\.)?(?:{pattern})"), builder) for pattern, builder in RULES]


def rules_of(name: str) -> list[Builder]:
    """The builders of all rules that match a tensor's name; exactly one for the tensors of the three networks."""
    return [builder for pattern, builder in _PATTERNS if pattern.fullmatch(name)]


def sharding_of(name: str, shape: Shape, mesh: AnyMesh) -> NamedSharding:
    """The sharding of a tensor.

    Args:
        name: dotted name, such as `unet.conv_in.kernel`. Only its end matters, so names relative to a block and names within
            an optimizer state work too.
        shape: global shape of the tensor.
        mesh: from `svdjax.parallel.mesh.make_mesh`, or an abstract mesh with the same axes.

    Raises:
        ValueError: no rule matches the name, or several do. Scalars need no rule.
    """
    builders = [_whole] if len(shape) == 0 else rules_of(name)
    if len(builders) != 1:
        raise ValueError(f"{name}, shape {tuple(shape)}: matches {len(builders)} rules of `RULES`, expected one")
    return NamedSharding(mesh, builders[0](tuple(shape), mesh.shape))


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Divide the leading axis of a batch over `data` and `fsdp`."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, P())


def shardings(mesh: AnyMesh) -> Callable[[str, Shape], NamedSharding]:
    """`sharding_of` for one mesh, for `svdjax.load`."""
    return functools.partial(sharding_of, mesh=mesh)


def like_tree(tree: Any, mesh: AnyMesh) -> Any:
    """`sharding_of` for every leaf of a tree by its path: parameters by dotted name, or an optimizer state over them."""
    return _map_named(lambda name, leaf: sharding_of(name, leaf.shape, mesh), tree, "")


def device_bytes(leaves: Mapping[str, Any], mesh: AnyMesh) -> int:
    """Bytes that each device stores of arrays, or of `jax.ShapeDtypeStruct`s, given by name."""
    return sum(
        math.prod(sharding_of(name, leaf.shape, mesh).shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        for name, leaf in leaves.items()
    )


def gathered(tree: Any, mesh: Mesh, name: str = "", after: Array | None = None) -> Any:
    """Gather every leaf over `fsdp`, inside a jitted function. Leaves stay divided over `tensor`.

    Inside a rematerialised block (`run_gathered`), the gathered copies are dropped after the block and gathered again for its
    backward pass. Gradients have no constraint on their sharding: after the sum over the batch, constrain them to `like_tree`.

    Args:
        tree: an `nnx.Module`, its state, or a mapping with dotted names.
        mesh: the mesh on which `sharding_of` placed the leaves.
        name: name of the module, needed if the names of its leaves alone match no rule (a single layer, `ff`).
        after: an array to wait for. Otherwise XLA may gather everything at the start, or once for several uses, and keep the
            copies; on a CPU it may still do so.
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
    """A `run_block` for the UNet that gathers each block's weights while it runs, and calls `run`.

    Both passes of training need it. Without it, XLA leaves the weights divided, and divides the activations by
    channels, although they are larger.
    """
    return lambda block, *args: run(_Gathered(block, mesh), *args)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Gathered:
    """A block that gathers its weights when called."""

    block: nnx.Module  # its first argument is an array
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
    # By default the gradient gets the same sharding constraint: every device would hold the gradients of all clips before
    # they are summed.
    return gradient, jnp.zeros_like(after)


_gather.defvjp(_gather_fwd, _gather_bwd)


def _map_named(fn: Callable[[str, Any], Any], tree: Any, prefix: str) -> Any:
    """Map `fn(dotted name, leaf)` over the leaves."""

    def named(path: tuple[Any, ...], leaf: Any) -> Any:
        keys = [prefix] * bool(prefix) + [jax.tree_util.keystr((key,), simple=True) for key in path]
        return fn(".".join(keys[:-1] if keys[-1:] == ["value"] else keys), leaf)  # `value` of an `nnx.Param`

    return jax.tree_util.tree_map_with_path(named, tree)
