"""Fine-tune backward directions of the embedded model that differ in their maps and trained tensors; see rotated_maps.py."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from svdjax import embedded_model
from svdjax.loading import load
from svdjax.losses.finetuning import Moments, clip_losses, encode_ends, encode_frames, optimizer
from svdjax.losses.training_noise import Noising, draw_training_noise
from svdjax.models.backward import NOWHERE, QUERIES, VALUES, Backward, tensor_kind
from svdjax.models.svd import SVD, leaves
from svdjax.world.drawing import render
from svdjax.world.scene import scene

STEPS, BATCH, RATE, RANK = 400, 8, 3e-3, 16
FINE = ("down_blocks.0", "up_blocks.2")  # temporal attention on 16x16 latents
COARSE = ("down_blocks.1", "mid_block", "up_blocks.1")  # on 8x8 and 4x4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A backward direction to fine-tune.

    Attributes:
        maps: the layers that use the rotated maps, see `Backward`; their values and outputs are trained.
        queries: whether queries and keys of the other layers are trained too.
        rank: of the change of every matrix; None for whole matrices.
    """

    maps: tuple[str, ...]
    queries: bool = True
    rank: int | None = None


TRAINED = {
    "own-values": Trained(maps=NOWHERE, queries=False),
    "own-rank-16": Trained(maps=NOWHERE, rank=RANK),
    "rotated-coarse": Trained(maps=COARSE),
    "rotated-fine": Trained(maps=FINE),
}


@functools.cache
def model_of(method: str = "dual") -> SVD:
    return load(embedded_model.checkpoint(method))


def starting_tensors(variant: Trained, unet: Mapping[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The trained tensors, or two factors of each change, and the UNet's own tensors of the same names."""
    half = Backward(maps_from_forward=variant.maps)
    own = {}
    for name, x in unet.items():
        kind = tensor_kind(name)
        values, queries = kind in VALUES, kind in QUERIES and variant.queries and not half.takes_maps(name)
        if (values or queries) and name.endswith(".kernel"):
            own[name] = x.astype(jnp.float32)
    if variant.rank is None:
        return dict(own), own
    keys = jax.random.split(jax.random.key(1), len(own))
    factors = {}
    for key, (name, x) in zip(keys, own.items(), strict=True):
        factors[f"{name}/in"] = jax.random.normal(key, (x.shape[0], variant.rank)) / math.sqrt(x.shape[0])
        factors[f"{name}/out"] = jnp.zeros((variant.rank, x.shape[1]))
    return factors, own


def tensors(trained: Mapping[str, Array], own: Mapping[str, Array]) -> dict[str, Array]:
    """The backward tensors from what is trained."""
    return {
        name: trained[name] if name in trained else x + trained[f"{name}/in"] @ trained[f"{name}/out"]
        for name, x in own.items()
    }


def encoded_clips(out: Path) -> dict[str, np.ndarray]:
    """Encodings of the training clips, each read once; kept in `OUT/clips.npz`."""
    file = out / "clips.npz"
    if not file.exists():
        model = model_of()
        encode = jax.jit(encode_frames)
        rows: dict[str, list[Any]] = {"mean": [], "logvar": [], "embeds": [], "ends": []}
        for number in tqdm(range(STEPS * BATCH), desc="encoding"):
            frames = render(scene("train", number))
            mean, logvar, embeds = encode(model.image_encoder, model.vae, jnp.asarray(frames))
            for name, value in {"mean": mean, "logvar": logvar, "embeds": embeds[jnp.array([0, -1])]}.items():
                rows[name].append(np.asarray(value))
            rows["ends"].append(frames[[0, -1]])
        np.savez(file, **{name: np.stack(values) for name, values in rows.items()})
    return dict(np.load(file))


def train(name: str, out: Path) -> None:
    """Fine-tune a variant as the embedded model's backward directions: `OUT/NAME.npz` and its losses."""
    if (out / f"{name}.npz").exists():
        return
    variant, model, data, noising = TRAINED[name], model_of(), encoded_clips(out), Noising()
    trained, own = starting_tensors(variant, leaves(model.unet))
    tx = optimizer(RATE)
    frames, h, w, c = data["mean"].shape[1:]

    @jax.jit
    def step(trained: Any, state: Any, unet: Any, vae: Any, batch: Any, number: Array) -> Any:
        draws = draw_training_noise(0, number, jnp.arange(BATCH), batch["ends"].shape[2:], (frames, h, w, c), noising)
        examples = encode_ends(vae, batch["ends"], Moments(batch["mean"], batch["logvar"], batch["embeds"]), draws, noising)

        def loss(trained: Any) -> Array:
            return clip_losses(tensors(trained, own), unet, examples, rotation=variant.maps).mean()

        value, gradients = jax.value_and_grad(loss)(trained)
        updates, state = tx.update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state, value

    state, losses = tx.init(trained), []
    for number in (bar := tqdm(range(STEPS), desc=name)):
        batch = {key: values[number * BATCH : (number + 1) * BATCH] for key, values in data.items()}
        trained, state, value = step(trained, state, model.unet, model.vae, batch, jnp.int32(number))
        losses.append(float(value))
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}")
    parameters = sum(x.size for x in jax.tree.leaves(trained))
    print(f"{name}: {parameters:,} parameters, loss {np.mean(losses[:100]):.4f} to {np.mean(losses[-100:]):.4f}", flush=True)
    np.savez(out / f"{name}.npz", **{key: np.asarray(x) for key, x in tensors(trained, own).items()})
