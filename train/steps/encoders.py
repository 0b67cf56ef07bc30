"""The frozen encoders of a training step: the parts that it uses, and their placement."""

from __future__ import annotations

from flax import nnx
from jax.sharding import Mesh, NamedSharding

from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.models.vae import VAE
from svdjax.parallel import sharding


def encoding_part(vae: VAE) -> VAE:
    """A VAE, arrays or shapes, without its decoder."""
    part = nnx.clone(vae)
    del part.decoder
    return part


def where_for(mesh: Mesh, *, cached: bool, offload: bool) -> Shardings:
    """Shardings for `svdjax.load`: what steps use is on the mesh, the rest stays in host memory."""
    idle = ["backward.", "vae.decoder."] + ["image_encoder."] * cached + ["image_encoder.", "vae."] * offload

    def where(name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return None if name.startswith(tuple(idle)) else sharding.sharding_of(name, shape, mesh)

    return where
