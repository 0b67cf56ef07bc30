"""Sample and decode a small random model on simulated devices, and compare with one device. A program for `test_exact.py`:

JAX_NUM_CPU_DEVICES=8 NPROC=12 python tests/mesh/on_devices.py '[{"meshes": ["columns=2"], "method": "dual", ...}, ...]'
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import Any

import jax
import numpy as np

from svdjax.config import CLIPConfig, SVDConfig, UNetConfig, VAEConfig

FRAMES = 3
CONFIG = SVDConfig(
    unet=UNetConfig(
        block_out_channels=(64, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=(1, 1),
        transformer_layers_per_block=(1, 1),
        num_attention_heads=(2, 2),
        cross_attention_dim=(16, 16),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=FRAMES,
        sample_size=16,
    ),
    vae=VAEConfig(block_out_channels=(32, 64), layers_per_block=1),
    image_encoder=CLIPConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    ),
)
SIZE = 32, 32  # rows and columns in pixels: 8 rows and 8 columns at the UNet's lowest level


def random_model(method: str) -> Any:
    """A model with random weights in float32, and backward tensors that suit the method."""
    from sample.benchmarking.workloads import RandomWeights
    from svdjax.models.backward import QUERIES, VALUES
    from svdjax.models.svd import NETWORKS, abstract_model, fill, leaves

    shapes = abstract_model(CONFIG, "float32", VALUES + QUERIES if method == "no-rotation" else VALUES)
    weights = RandomWeights()
    networks = {name: fill(getattr(shapes, name), weights(leaves(getattr(shapes, name)))) for name in NETWORKS}
    assert shapes.backward is not None
    return dataclasses.replace(shapes, **networks, backward=weights(shapes.backward))


def compare(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the clips of a chain of keyframes on one device and on every mesh.

    A case has `meshes`, and may have `method`, `clips` of the chain, `batch`, and options of `interpolate_pairs`, or fields of
    `Settings`.
    """
    from svdjax import chain, pipeline
    from svdjax.frame_rate import clips
    from svdjax.parallel.mesh import SAMPLING_AXES, make_mesh
    from svdjax.sampling.methods import settings_of

    fields = {"num_frames": FRAMES, "steps": 3, **case}
    meshes, method = fields.pop("meshes"), fields.pop("method", "dual")
    count, batch = fields.pop("clips", 1), fields.pop("batch", 1)
    rate, chunk = fields.pop("rate", 1), fields.pop("decode_chunk", None)
    settings = settings_of(method, fields, {})
    model = random_model(method)
    rng = np.random.default_rng(0)
    keyframes = [rng.integers(0, 256, (batch, *SIZE, 3), dtype=np.uint8) for _ in range(count + 1)]

    def made(model: Any) -> list[chain.Clip]:
        return list(chain.interpolate_pairs(model, keyframes, settings, method=method, decode_chunk=chunk))

    def at_rate(model: Any) -> list[chain.Clip]:
        # from the same frames: they condition the model, and are rounded to levels
        raised = (clips.raise_rate(model, c.latents, c.frames, settings, rate, method=method) for c in sampled)
        return [chain.Clip(latents, clips.decode_at_rate(model, latents, rate)) for latents in raised]

    sampled = expected = made(model)
    if rate > 1:
        sampled = [dataclasses.replace(clip, latents=np.asarray(clip.latents)) for clip in sampled]
        made, expected = at_rate, at_rate(model)
    results = []
    for text in meshes:
        sizes = dict(part.split("=") for part in text.split(","))
        mesh = make_mesh(text, jax.devices()[: math.prod(map(int, sizes.values()))], SAMPLING_AXES)
        found = made(pipeline.on_mesh(model, mesh))
        pairs = list(zip(found, expected, strict=True))
        results.append(
            {
                "mesh": text,
                "latents": max(_relative(a.latents, b.latents) for a, b in pairs),
                "levels": max(int(np.abs(a.frames.astype(int) - b.frames).max()) for a, b in pairs),
                "disagreement": max(_relative(a.disagreement, b.disagreement) for a, b in pairs) if rate == 1 else 0.0,
            }
        )
    return results


def _relative(a: Any, b: Any) -> float:
    """L2 distance, relative to the norm of `b`; infinity for other shapes. None is what a single direction observes."""
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        return math.inf
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if b.size else 0.0


if __name__ == "__main__":
    for given in json.loads(sys.argv[1]):
        for result in compare(given):
            print(json.dumps({**given, **result}), flush=True)
