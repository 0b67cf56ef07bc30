"""Generate the missing clips of each method and write their frames."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from sample import contact_sheet, planned_model
from sample.evaluation import clip_folders, run_folder
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.request import CROSS_FADE, NEAREST, RECONSTRUCTION, RIFE, EvaluationRequest
from sample.evaluation.run_folder import read_clip
from sample.other_methods import baselines, given_clips, rife
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.models.svd import SVD, on_device
from svdjax.models.vae import VAE, encoding_part
from svdjax.sampling import generation
from svdjax.sampling.clip_plan import ClipPlan
from svdjax.sampling.conditioning import to_signed_unit
from svdjax.sampling.draws import draw
from svdjax.sampling.methods import parse_name

Maker = Callable[[Sequence[Pair]], Iterable[np.ndarray]]  # a batch of pairs -> a clip for each, uint8 (f, H, W, 3)

# First keyframe, last keyframe, number of frames -> the clip.
_BETWEEN: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    CROSS_FADE: contact_sheet.cross_fade,
    NEAREST: baselines.nearest_keyframe,
    RIFE: rife.interpolate,
}


def generate(request: EvaluationRequest, method: str, pairs: Sequence[Pair], facts: dict[str, Any]) -> float | None:
    """Write the missing clips of a method, or of the truth.

    Args:
        request: the command line.
        method: one of the request's methods, or `TRUTH`.
        pairs: all pairs of the evaluation.
        facts: `run_folder.identity` of the method.

    Returns:
        Seconds per pair, without compilation. If this run generated fewer than two batches: the value of an earlier run, or
        None. Always None for methods without a model.
    """
    folder = request.out / method
    folder.mkdir(exist_ok=True)
    seconds = run_folder.recorded_seconds(folder)
    run_folder.record(folder, facts, seconds)
    missing = [pair for pair in pairs if not (folder / pair.name).is_dir()]
    if method in request.given:
        _copy_given(request, method, pairs, missing)
    elif missing:
        # with other processes, all of them count the same batches
        times = _write_clips(request, method, pairs if request.claims.shared else missing)
        if method in request.models and len(times) > 1:
            seconds = float(np.mean(times[1:]))  # the first batch includes compilation
            run_folder.record(folder, facts, seconds)
    return seconds


def _copy_given(request: EvaluationRequest, method: str, pairs: Sequence[Pair], missing: Sequence[Pair]) -> None:
    """Write the clips of `--clips` in the shape of the pairs, and say which are missing or had another shape."""
    found = given_clips.find(request.given[method], [pair.name for pair in pairs])
    targets = [request.out / method / pair.name for pair in missing if pair.name in found]
    with request.claims.take(targets, Path.is_dir) as units:
        for (target,) in tqdm(units, total=len(targets), desc=method, unit="pair", file=sys.stderr):
            clip_folders.write(target, *given_clips.read(found[target.name], request.shape))
    present = run_folder.available(request, method, pairs)
    if len(present) < len(pairs):
        lacking = min({pair.name for pair in pairs} - {pair.name for pair in present})
        missing_share = f"{len(pairs) - len(present)} of {len(pairs)} pairs"
        print(f"{method}: no clip of {missing_share}, such as {lacking}; it is compared on the others")
    notes = [(pair.name, note) for pair in present if (note := clip_folders.note(request.out / method / pair.name))]
    if notes:
        name, shape = notes[0]
        share = f"{len(notes)} of {len(present)} clips"
        print(f"{method}: {share} have another shape, such as {name} ({shape}); {given_clips.RULE}")


def _write_clips(request: EvaluationRequest, method: str, pairs: Sequence[Pair]) -> list[float]:
    """Write the missing clips of a method batch by batch; return the seconds per pair of each batch."""
    batch_size, folder = request.batch_size, request.out / method
    batches = {folder / pairs[k].name: pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)}

    def missing(target: Path) -> list[Pair]:
        return [pair for pair in batches[target] if not (folder / pair.name).is_dir()]

    make = _clip_maker(request, method)
    times = []
    with (
        tqdm(total=len(pairs), desc=method, unit="pair", file=sys.stderr) as bar,
        request.claims.take(list(batches), lambda target: not missing(target)) as units,
    ):
        for (target,) in units:
            batch = missing(target)
            started = time.monotonic()
            padded = [*batch, *[batch[-1]] * (batch_size - len(batch))]  # all batches have one shape: compiled once
            for pair, clip in zip(batch, make(padded), strict=False):
                clip_folders.write(request.out / method / pair.name, clip)
            times.append((time.monotonic() - started) / batch_size)
            bar.update(len(batch))
    return times


def _clip_maker(request: EvaluationRequest, method: str) -> Maker:
    """Load the model of a method; return the function that makes its clips."""
    if method == TRUTH:
        return lambda pairs: (pair.read() for pair in pairs)
    if method in _BETWEEN:
        make, count = _BETWEEN[method], request.settings.num_frames
        return lambda pairs: (make(first, last, count) for first, last in (_keyframes(request, pair) for pair in pairs))
    chosen = request.models[method]
    if method == RECONSTRUCTION:
        model, plan = planned_model.load_for_decoding(
            chosen.source, request.dtype, request.memory, request.settings, request.size
        )
        return lambda pairs: (reconstruct(model, read_clip(request, TRUTH, pair), plan) for pair in pairs)
    model, plans = planned_model.load(
        chosen.source,
        request.dtype,
        request.memory,
        request.method_settings[method],
        [request.size],
        backward=chosen.backward,
        method=parse_name(method)[0],
        batch=request.batch_size,
        mesh=request.mesh,
    )
    return functools.partial(_sample, request, method, model, plans[request.size])


def _sample(request: EvaluationRequest, method: str, model: SVD, plan: ClipPlan | None, pairs: Sequence[Pair]) -> np.ndarray:
    first, last = np.stack([_keyframes(request, pair) for pair in pairs], 1)
    width, height = request.size
    seeds = [(request.settings.seed + int(pair.name)) % 2**32 for pair in pairs]
    settings, chosen = request.method_settings[method], parse_name(method)[0]
    draws = draw(seeds, (height, width, 3), generation.latent_shape(request.config, settings, (height, width)))
    latents = generation.sample_pair(model, first, last, settings, method=chosen, draws=draws, plan=plan)
    return generation.decode(model, latents, plan=plan and plan.decode)


def _keyframes(request: EvaluationRequest, pair: Pair) -> np.ndarray:
    return clip_folders.read_keyframes(request.out / TRUTH / pair.name, request.shape)


def reconstruct(model: SVD, clip: np.ndarray, plan: DecodePlan | None = None) -> np.ndarray:
    """Encode the frames of a clip one by one, as means of the latent distributions, and decode them together.

    Args:
        model: only its VAE is used.
        clip: uint8 (f, H, W, 3).
        plan: how to decode within the device's memory.

    Returns:
        Frames, uint8 (f, H, W, 3).
    """
    vae = model.vae if plan is None else on_device(encoding_part(model.vae))
    means = jnp.stack([_mean(vae, frame) for frame in clip])
    del vae  # before the decoder is on the device
    return generation.decode(model, means[None] * model.config.vae.scaling_factor, plan=plan)[0]


@jax.jit
def _mean(vae: VAE, frame: Array) -> Array:
    return vae.encode(to_signed_unit(frame[None]))[0][0]
