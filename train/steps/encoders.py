"""The frozen encoders of a training step: the parts that it uses, their placement, and the encoding of single frames."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from svdjax.checkpoints.orbax_trees import Shardings
from svdjax.losses import finetuning
from svdjax.parallel import sharding

FRAMES_PER_DEVICE = 8  # number of frames that a device encodes together for the latent cache


def where_for(mesh: Mesh, *, cached: bool, offload: bool) -> Shardings:
    """Shardings for `svdjax.load`: what steps use is on the mesh, the rest stays in host memory."""
    idle = ["backward.", "vae.decoder."] + ["image_encoder."] * cached + ["image_encoder.", "vae."] * offload

    def where(name: str, shape: tuple[int, ...]) -> NamedSharding | None:
        return None if name.startswith(tuple(idle)) else sharding.sharding_of(name, shape, mesh)

    return where


def jitted_frame_encoder(devices: Mesh) -> tuple[Any, NamedSharding, NamedSharding]:
    """The jitted `finetuning.encode_frames` on a mesh, with the shardings of its networks and of its frames and results.

    Args:
        devices: a mesh of one axis; each device encodes its share of the frames.
    """
    replicated, divided = NamedSharding(devices, PartitionSpec()), NamedSharding(devices, PartitionSpec(*devices.axis_names))
    # With shard_map, because the VAE loops over groups of large frames; a loop over frames of all devices would gather them.
    specs = {"in_specs": (replicated.spec, replicated.spec, divided.spec), "out_specs": divided.spec}
    return jax.jit(jax.shard_map(finetuning.encode_frames, mesh=devices, **specs, check_vma=False)), replicated, divided
