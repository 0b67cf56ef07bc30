"""Batches from the latent cache (`--cache-latents`), which is filled before training. For runs with frozen encoders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from svdjax.checkpoints.checkpoint import Info
from svdjax.data.clip_order import Order
from svdjax.data.sources import fingerprint
from svdjax.models.clip import CLIPVision
from svdjax.models.vae import VAE, encoding_part
from svdjax.parallel import cluster
from train.batches.latent_cache import LatentCache
from train.batches.loader import CachedLoader
from train.run.session import Setup
from train.steps.encoders import FRAMES_PER_DEVICE, jitted_frame_encoder


@contextlib.contextmanager
def cached_batches(
    folder: Path, info: Info, encoders: tuple[CLIPVision, VAE], setup: Setup, order: Order, rows: list[int], first: int
) -> Iterator[CachedLoader]:
    """The batches from a step on.

    Args:
        folder: the folder of the cache.
        info: contents of `config.json` of the encoders' checkpoint.
        encoders: image encoder and VAE, with weights on the step's mesh or in host memory.
        setup: data and devices of the run.
        order: order of the clips.
        rows: the rows of a batch that this process needs.
        first: the first step.

    Raises:
        InputError: see `LatentCache` and `LatentCache.build`.
    """
    # The key depends on the encoders only, so that runs with other UNets use the same entries.
    sources = {name: digest for name, digest in info.sources.items() if name.split("/")[0] in ("vae", "image_encoder")}
    config = info.config.to_json()
    key = fingerprint([sources, config["vae"], config["image_encoder"], info.dtype, setup.dtype])
    cache = LatentCache(folder, setup.data, key)
    # Processes may see different folders, while another run fills the cache; all must take the same branch, which has
    # collective operations.
    if not all(cluster.gather_json(all(map(cache.is_complete, order.sources)))):
        chunk = FRAMES_PER_DEVICE * jax.local_device_count()
        share = (jax.process_index(), jax.process_count())
        cache.build(order.sources, frame_encoder(*encoders), share=share, chunk=chunk)
        cluster.barrier("latents cached")
    with CachedLoader(cache, order, setup.batch_size, rows, first) as loader:
        yield loader


def frame_encoder(image_encoder: CLIPVision, vae: VAE) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function that maps frames uint8 (n, H, W, 3) to mean, logvar and image_embeds (see `LatentCache`), all on the host.

    It runs on the devices of this process only; n must be a multiple of their number. The networks may be in host memory;
    copies of them stay on the devices as long as the function exists.
    """
    encode, replicated, divided = jitted_frame_encoder(Mesh(np.asarray(jax.local_devices()), ("frames",)))
    networks = image_encoder, encoding_part(vae)
    if jax.process_count() > 1:  # processes encode different frames, so no program may use all devices
        networks = jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else process_allgather(x, tiled=True), networks)
    networks = jax.device_put(networks, replicated)
    return lambda frames: jax.device_get(encode(*networks, jax.device_put(frames, divided)))
