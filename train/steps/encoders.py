"""The frozen encoders of a training step: the parts that it uses, and their placement."""

from __future__ import annotations

from jax.sharding import Mesh, NamedSharding

from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.parallel import sharding


def where_for(mesh: Mesh, *, cached: bool, offload: bool) -> Shardings:
    """Shardings for `svdjax.load`: what steps use is on the mesh, the rest stays in host memory."""
    idle = ["backward.", "vae.decoder."] + ["image_encoder."] * cached + ["image_encoder.", "vae."] * offload

    def where(name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return None if name.startswith(tuple(idle)) else sharding.sharding_of(name, shape, mesh)

    return where
