"""Self-attention over the frames of each pixel, with explicit attention maps.

`attention_maps` computes the maps, `apply_maps` uses them, `rotate_maps` turns them by 180 degrees. `TemporalAttention` is the
UNet's layer, with a lock-step call for both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from svdjax.memory.precision import stats_dtype
from svdjax.models.backward import Backward
from svdjax.models.layers import Linear, dense
from svdjax.models.spatial_attention import fused_attention, has_fused_kernel


def rotate_maps(maps: Array) -> Array:
    """rot180 of maps (..., f, f): entry (j, k) moves to (f-1-j, f-1-k). This is the attention seen in reversed time."""
    return jnp.flip(maps, (-2, -1))


def attention_maps(q: Array, k: Array) -> Array:
    """softmax(q k / sqrt(c)) over frames for each pixel, in at least float32.

    Args:
        q, k: (b, f, s, n, c), s pixels and n heads.

    Returns:
        (b*s, n, f, f), query frame before key frame.
    """
    return _by_pixel(_maps_by_frame(q, k))


def apply_maps(maps: Array, v: Array) -> Array:
    """Weighted sums over frames.

    Args:
        maps: (b*s, n, f, f).
        v: (d, b, f, s, n, c), d sets of values that share the maps.

    Returns:
        (d, b, f, s, n, c).
    """
    return _apply_by_frame(_by_frame(maps, v.shape[1]), v)


# The functions below hold maps as (b, g, f, s, n): key frame g before query frame f, then pixels, like the activations.


def _by_pixel(maps: Array) -> Array:
    """(b, g, f, s, n) -> (b*s, n, f, g)."""
    b, g, f, s, n = maps.shape
    return maps.transpose(0, 3, 4, 2, 1).reshape(b * s, n, f, g)


def _by_frame(maps: Array, b: int) -> Array:
    """(b*s, n, f, g) -> (b, g, f, s, n)."""
    _, n, f, g = maps.shape
    return maps.reshape(b, -1, n, f, g).transpose(0, 4, 3, 1, 2)


def _maps_by_frame(q: Array, k: Array) -> Array:
    # Keep the einsum: for large outputs, jaxlib 0.10.2 on a CPU silently gives wrong results for sums of products
    # (jax-ml/jax#39103).
    logits = jnp.einsum("bfsnc,bgsnc->bgfsn", q, k, preferred_element_type=stats_dtype(q.dtype))
    return jax.nn.softmax(logits * q.shape[-1] ** -0.5, axis=1)


def _apply_by_frame(maps: Array, v: Array) -> Array:
    return lax.platform_dependent(maps.astype(v.dtype), v, cpu=_sum_frames, default=_multiply_frames)


def _multiply_frames(maps: Array, v: Array) -> Array:
    return jnp.einsum("bgfsn,dbgsnc->dbfsnc", maps, v)


@jax.custom_vjp
def _sum_frames(maps: Array, v: Array) -> Array:
    """`_multiply_frames` for a CPU, where sums over frames are several times as fast as many products of tiny matrices."""
    maps = lax.optimization_barrier(maps)[..., None]  # computed once, not again inside every sum
    return cast(Array, sum(maps[:, g] * v[:, :, g, None] for g in range(maps.shape[1])))  # never the int 0: f > 0


def _sum_frames_fwd(maps: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
    return _sum_frames(maps, v), (maps, v)


def _sum_frames_bwd(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    maps, v = inputs
    # The gradient for the values is the same sum with key and query frames exchanged. JAX's own gradient is ten
    # times slower, because it sums over another axis for each key frame.
    return jnp.einsum("dbfsnc,dbgsnc->bgfsn", gradient, v), _sum_frames(maps.swapaxes(1, 2), gradient)


_sum_frames.defvjp(_sum_frames_fwd, _sum_frames_bwd)


class TemporalAttention(nnx.Module):
    """Multi-head self-attention over the frames of each pixel, with explicit maps and an optional backward half.

    Args of the constructor:
        dim, heads: total number of channels, and number of heads.
        path: the module's path in the UNet: its key in `attn_maps`, the prefix of its tensors in `Backward.params`.
    """

    def __init__(self, dim: int, heads: int, path: str, **kw: Any):
        self.to_q = Linear(dim, dim, use_bias=False, **kw)
        self.to_k = Linear(dim, dim, use_bias=False, **kw)
        self.to_v = Linear(dim, dim, use_bias=False, **kw)
        self.to_out = Linear(dim, dim, **kw)
        self.heads = heads
        self.path = path

    def _project(self, name: str, x: Array, tuned: Mapping[str, Array]) -> Array:
        """`self.<name>(x)`, with the layer's tensors replaced by those of `tuned` where it has them."""
        layer = getattr(self, name)
        kernel = tuned.get(f"{self.path}.{name}.kernel", layer.kernel[...])
        bias = tuned.get(f"{self.path}.{name}.bias", layer.bias[...]) if layer.use_bias else None
        return dense(x, kernel, bias, layer.dtype)

    def _heads(self, name: str, x: Array, tuned: Mapping[str, Array]) -> Array:
        """`_project` with the heads on a separate axis: (b, f, s, c) -> (b, f, s, n, c/n)."""
        return self._project(name, x, tuned).reshape(*x.shape[:3], self.heads, -1)

    def _maps(self, x: Array, tuned: Mapping[str, Array]) -> Array:
        return _maps_by_frame(self._heads("to_q", x, tuned), self._heads("to_k", x, tuned))

    def __call__(self, x: Array, maps: Array | None = None, tuned: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
        """Attention in one direction, with its maps.

        Args:
            x: (b, f, s, c).
            maps: (b*s, n, f, f) to use instead of the layer's own.
            tuned: tensors to use instead of the layer's own, see `Backward.params`.

        Returns:
            The output (b, f, s, c) and the maps that were used (b*s, n, f, f).
        """
        tuned = tuned or {}
        b, f, s, _ = x.shape
        if maps is None:
            weights = self._maps(x, tuned)
        elif maps.shape == (b * s, self.heads, f, f):
            weights = _by_frame(maps, b)
        else:
            raise ValueError(f"attn_maps[{self.path!r}] has shape {maps.shape}, expected {(b * s, self.heads, f, f)}")
        out = _apply_by_frame(weights, self._heads("to_v", x, tuned)[None])
        return self._project("to_out", out.reshape(x.shape), tuned), _by_pixel(weights)

    def has_kernel(self) -> bool:
        """Whether the device has a fused kernel for this layer, which computes no maps: see `by_kernel`."""
        return has_fused_kernel(cast(Any, self.to_v.dtype), self.to_v.out_features // self.heads)

    def by_kernel(self, clips: Sequence[Array], backward: Backward | None) -> Array:
        """The outputs of `self(x)` or `self.lockstep(x, backward)`, by a fused kernel.

        The kernel takes the frames of a pixel next to each other, so the layer runs on (b, s, f, c). The transposes are part
        of the operations before and after it.

        Args:
            clips: x; with `backward` its forward half and its backward half: (b, f, s, c) each.
            backward: see `lockstep`; None for one direction.

        Returns:
            (b, f, s, c) or (2*b, f, s, c).
        """
        fwd = clips[0]
        out = self._fused(fwd, fwd, {}, {})
        if backward is None:
            return out
        if backward.takes_maps(self.path):
            out_b = jnp.flip(self._fused(fwd, jnp.flip(clips[1], 1), {}, backward.params), 1)
        else:
            out_b = self._fused(clips[1], clips[1], backward.params, backward.params)
        return jnp.concatenate([out, out_b])

    def _fused(self, x: Array, y: Array, tuned: Mapping[str, Array], tuned_values: Mapping[str, Array]) -> Array:
        """The output for queries and keys of `x`, with tensors `tuned`, and values of `y`, with tensors `tuned_values`."""
        b, f, s, c = x.shape
        projections = (("to_q", x, tuned), ("to_k", x, tuned), ("to_v", y, tuned_values))
        q, k, v = (
            self._project(name, z.swapaxes(1, 2), tensors).reshape(b * s, f, self.heads, -1) for name, z, tensors in projections
        )
        return self._project("to_out", fused_attention(q, k, v).reshape(b, s, f, c), tuned_values).swapaxes(1, 2)

    def lockstep(self, x: Array, backward: Backward) -> tuple[Array, Array]:
        """Attention in both directions at once.

        The forward maps A need not be rotated for the backward half, because rot180(A) V = flip(A flip(V)). The backward values
        are flipped to forward time and stacked with the forward values, so that the same maps apply to both.

        Args:
            x: (2*b, f, s, c), the forward half before the backward half.
            backward: tensors of the backward half, and whether it uses the forward maps.

        Returns:
            The output (2*b, f, s, c) and the forward half's maps (b*s, n, f, f).
        """
        fwd, bwd = jnp.split(x, 2)
        if not backward.takes_maps(self.path):
            out_f, maps = self(fwd)
            return jnp.concatenate([out_f, self(bwd, tuned=backward.params)[0]]), maps
        weights = self._maps(fwd, {})
        v_f = self._heads("to_v", fwd, {})
        v_b = self._heads("to_v", bwd, backward.params)
        out = _apply_by_frame(weights, jnp.stack([v_f, jnp.flip(v_b, 1)])).reshape(2, *fwd.shape)
        out_f = self._project("to_out", out[0], {})
        out_b = self._project("to_out", jnp.flip(out[1], 1), backward.params)
        return jnp.concatenate([out_f, out_b]), _by_pixel(weights)
