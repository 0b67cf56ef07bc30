"""Batches from the latent cache (`--cache-latents`), filled before the first: for runs whose encoders stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from svdjax.checkpoints.checkpoint import Info
from svdjax.data.clip_order import Order
from svdjax.data.sources import fingerprint
from svdjax.losses import finetuning
from svdjax.models.clip import CLIPVision
from svdjax.models.vae import VAE
from svdjax.parallel import cluster
from train.batches.latent_cache import LatentCache
from train.batches.loader import CachedLoader
from train.run.session import Setup

FRAMES_A_DEVICE = 8  # that a device encodes at once


@contextlib.contextmanager
def cached_batches(
    folder: Path, info: Info, encoders: tuple[CLIPVision, VAE], setup: Setup, order: Order, rows: list[int], first: int
) -> Iterator[CachedLoader]:
    """The batches from a step on.

    Args:
        folder: the cache's.
        info: of the checkpoint that the encoders are of.
        encoders: as the step has them, with weights placed on its mesh.
        setup: of the run.
        order: which clips.
        rows: of a batch that this process needs.
        first: the step to begin with.

    Raises:
        InputError: as `LatentCache` and its `build`.
    """
    # of the encoders alone, so that runs of other UNets find it; the dtypes that they compute in follow from these
    sources = {name: digest for name, digest in info.sources.items() if name.split("/")[0] in ("vae", "image_encoder")}
    config = info.config.to_json()
    key = fingerprint([sources, config["vae"], config["image_encoder"], info.dtype, setup.dtype])
    cache = LatentCache(folder, setup.data, key)
    # all processes look before any begins, and agree: what follows is done together
    if not all(map(cache.is_complete, order.sources)):
        chunk = FRAMES_A_DEVICE * jax.local_device_count()
        share = (jax.process_index(), jax.process_count())
        cache.build(order.sources, frame_encoder(*encoders), share=share, chunk=chunk)
        cluster.barrier("latents cached")
    with CachedLoader(cache, order, setup.batch, rows, first) as loader:
        yield loader


def frame_encoder(image_encoder: CLIPVision, vae: VAE) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames uint8 (n, H, W, 3) -> mean, logvar, image_embeds on the host, by this process alone, over its devices.

    n is a multiple of them.
    """
    networks = (image_encoder, vae)
    if jax.process_count() > 1:  # the others encode other frames, so no program may run over all devices
        networks = multihost_utils.process_allgather(networks, tiled=True)
    own = Mesh(np.asarray(jax.local_devices()), ("frames",))
    whole, divided = PartitionSpec(), PartitionSpec("frames")
    networks = jax.device_put(networks, NamedSharding(own, whole))
    # each device its own frames: a loop over parts of all of them, as the VAE does where they are large, would gather them
    specs = {"in_specs": (whole, whole, divided), "out_specs": divided}
    encode = jax.jit(jax.shard_map(finetuning.encode_frames, mesh=own, **specs, check_vma=False))
    return lambda frames: jax.device_get(encode(*networks, jax.device_put(frames, NamedSharding(own, divided))))
