"""Why is the backward direction better with attention maps of its own? Experiments on the embedded world (docs/claims.md).

    python tests/rotated_maps.py train OUT [NAME ...]    fine-tune the variants of `TRAINED`
    python tests/rotated_maps.py errors OUT [NAME ...]   errors of single estimates, and how they correlate
    python tests/rotated_maps.py sample OUT [NAME ...]   clips of the first test pairs, OUT/clips/NAME

Compare the clips with `python -m sample.evaluate --pairs N --methods cross-fade --clips NAME=OUT/clips/NAME ...`. Every stage
continues with the next variant or clips. On a CPU core a variant takes about 25 minutes to train, and 9 to sample for 48 pairs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rotated_maps_training import BATCH, TRAINED, model_of, train
from tqdm import tqdm

from sample.evaluation import clip_folders
from svdjax.losses.finetuning import encode_frames
from svdjax.models.backward import EVERYWHERE, NOWHERE, QUERIES, VALUES, Backward, tensor_kind
from svdjax.models.svd import backward_unet, leaves
from svdjax.models.temporal_attention import rotate_maps
from svdjax.pipeline import settings_for
from svdjax.runtime import compilation_cache
from svdjax.sampling import edm, generation
from svdjax.sampling.draws import Draws, draw
from svdjax.sampling.methods import run_of
from svdjax.sampling.passes import add_noise
from svdjax.sampling.prediction import Conditioning, clips_of, guided, reverse_time
from svdjax.sampling.sampler import guide_of
from svdjax.world.drawing import render
from svdjax.world.scene import scene

# Variants of single updates. `other-noise`: the maps come from a forward pass with other noise on the true latents, which only
# `errors` knows; `fused`: from a forward pass with other noise on the fused estimate, which costs half an evaluation more.
SHIPPED = {"rotated": "dual", "own": "no-rotation"}
PASSES = {"other-noise": "rotated", "fused": "rotated"}
# The variant of the updates at the five high noise levels, the first 20 of 25, and the variant of the others.
MIXED = {"rotated-then-own": ("rotated", "own"), "own-then-rotated": ("own", "rotated")}
HIGH = 20
SETTINGS = {"steps": 10, "recurrence": 3}  # of the shipped backward directions in docs/claims.md, with average fusion


def half_of(name: str, out: Path) -> Backward:
    """The backward half of a variant."""
    name = PASSES.get(name, name)
    if name in SHIPPED:
        return Backward(model_of(SHIPPED[name]).backward, EVERYWHERE if name == "rotated" else NOWHERE)
    tensors = {key: x for key, x in leaves(model_of().unet).items() if tensor_kind(key) in VALUES + QUERIES}
    # complete sets of tensors, so that variants share compiled programs
    return Backward(tensors | {key: jnp.asarray(x) for key, x in np.load(out / f"{name}.npz").items()}, TRAINED[name].maps)


@jax.jit
def estimates(
    unet: Any, half: Backward, noisy: Array, for_maps: Array | None, sigma: Array, conditioning: Any, guide: Any
) -> Array:
    """Clean latents of both directions after guidance, (2, b, f, h, w, c) in forward time.

    Args:
        unet, half: the weights.
        noisy: the latents, (b, f, h, w, c).
        for_maps: the latents whose forward pass gives the maps; None: `noisy`.
        sigma, conditioning, guide: see `svdjax.sampling.prediction`.
    """
    lead = (2, len(noisy))

    def run(network: Any, latents: Array, direction: int, maps: Any = None) -> Any:
        clips = clips_of(latents, sigma, conditioning, guided=True)
        n = 2 * len(latents)
        sample, embeds = clips.sample[direction].reshape(n, *noisy.shape[1:-1], -1), clips.image_embeds[direction]
        ids = jnp.broadcast_to(clips.added_time_ids, (*lead, 3)).reshape(n, 3)
        options = {"return_attn_maps": True} if maps is None else {"attn_maps": maps}
        return network(sample, jnp.broadcast_to(clips.c_noise, n), embeds.reshape(n, *embeds.shape[2:]), ids, **options)

    forward, maps = run(unet, noisy, 0)
    maps = maps if for_maps is None else run(unet, for_maps, 0)[1]
    used = {path: rotate_maps(a) for path, a in maps.items() if half.takes_maps(path)}
    backward = run(backward_unet(unet, half.params), noisy, 1, used)
    v = guided(jnp.stack([forward, backward]).reshape(2, *lead, *noisy.shape[1:]), guide)
    return edm.denoise(noisy, jnp.stack([v[0], reverse_time(v[1])]), sigma)


def prepared(split: str, numbers: Sequence[int]) -> tuple[np.ndarray, Draws, Conditioning]:
    """True frames, draws and conditioning of some clips."""
    model = model_of()
    settings = settings_for(model, "dual")
    frames = np.stack([render(scene(split, number)) for number in numbers])
    draws = draw(numbers, frames.shape[2:], generation.latent_shape(model.config, settings, frames.shape[2:4]))
    conditioning = generation.condition_on(model, np.stack([frames[:, 0], frames[:, -1]]), draws, settings, None, False)
    return frames, draws, conditioning


def errors(names: Sequence[str], out: Path, count: int) -> None:
    """Mean squared errors of both directions and of their mean, and the correlation of the errors, for validation clips."""
    model = model_of()
    settings = settings_for(model, "dual", **SETTINGS)
    sigmas = run_of("dual", settings, model.config.scheduler).sigmas[:-2]
    guide = guide_of(settings, 2, jnp.float32)
    found: dict[str, list[Any]] = {name: [] for name in names}
    encode = jax.jit(encode_frames)
    for start in range(0, count, BATCH):
        frames, draws, conditioning = prepared("validation", range(start, start + BATCH))
        clean, _, _ = encode(model.image_encoder, model.vae, jnp.asarray(frames.reshape(-1, *frames.shape[2:])))
        clean = clean.reshape(*frames.shape[:2], *clean.shape[1:]) * model.config.vae.scaling_factor
        for name in names:
            rows = []
            for sigma in map(jnp.float32, sigmas):
                noisy = clean + sigma * draws.initial
                source, call = None, (conditioning, guide)
                other = draws.recurrence_noise(jnp.asarray(0))
                if name == "other-noise":
                    source = clean + sigma * other
                elif name == "fused":
                    fused = estimates(model.unet, half_of(name, out), noisy, None, sigma, *call).mean(0)
                    source = fused + sigma * other
                both = estimates(model.unet, half_of(name, out), noisy, source, sigma, *call)
                forward, backward = both - clean
                f, b, product = ((x * y).mean((1, 2, 3, 4)) for x, y in ((forward,) * 2, (backward,) * 2, (forward, backward)))
                rows.append(np.stack([f, b, (f + b + 2 * product) / 4, product / jnp.sqrt(f * b)]))
            found[name].append(np.stack(rows))
            print(name, start, flush=True)
    result = {name: np.concatenate(rows, -1).mean(-1).tolist() for name, rows in found.items()}
    (out / "errors.json").write_text(
        json.dumps({"sigmas": sigmas.tolist(), "forward, backward, mean, correlation": result}, indent=1)
    )
    for k, sigma in enumerate(sigmas):
        rows = {name: [round(x, 3) for x in values[k]] for name, values in result.items()}
        print(f"sigma {sigma:.2f}:", rows)


def sample(name: str, out: Path, count: int) -> None:
    """Clips of the first test pairs with `SETTINGS` and the draws of `sample.evaluate`."""
    model = model_of()
    settings = settings_for(model, "dual", **SETTINGS)
    run = run_of("dual", settings, model.config.scheduler)
    guide = guide_of(settings, 2, jnp.float32)
    halves = [half_of(part, out) for part in MIXED.get(name, (name, name))]
    folder = out / "clips" / name
    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, count, BATCH), desc=name):
        numbers = range(start, start + BATCH)
        if all((folder / f"{number:04d}").is_dir() for number in numbers):
            continue
        _, draws, conditioning = prepared("test", numbers)
        latents = draws.initial * math.sqrt(run.sigma[0] ** 2 + 1)
        for k in range(len(run)):
            at = {key: value[0] for key, value in run.rows(k, k + 1, jnp.float32).items()}
            latents = add_noise(latents, at, draws)
            call = model.unet, halves[k >= HIGH], latents
            both = estimates(*call, None, at["sigma"], conditioning, guide)
            if name == "fused":
                other = draws.recurrence_noise(jnp.asarray(run.recurrences + k))
                both = estimates(*call, both.mean(0) + at["sigma"] * other, at["sigma"], conditioning, guide)
            latents = edm.euler_step(latents, both.mean(0), at["sigma"], at["sigma_next"])
        for number, frames in zip(numbers, generation.decode(model, latents), strict=True):
            clip_folders.write(folder / f"{number:04d}", frames)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stage", choices=["train", "errors", "sample"])
    p.add_argument("out", type=Path)
    p.add_argument("names", nargs="*")
    p.add_argument("--pairs", type=int, default=48, help="clips of `errors` and `sample`, a multiple of 8 (default: 48)")
    args = p.parse_args()
    compilation_cache.enable()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage == "train":
        for name in args.names or TRAINED:
            train(name, args.out)
    elif args.stage == "errors":
        errors(args.names or [*SHIPPED, *TRAINED, *PASSES], args.out, args.pairs)
    else:
        for name in args.names or [*TRAINED, "fused", *MIXED]:
            sample(name, args.out, args.pairs)


if __name__ == "__main__":
    main()
