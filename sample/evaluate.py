"""`python -m sample.evaluate`: methods measured against the truth on pairs of keyframes that no training saw.

OUT/METHOD/PAIR/0000.png, OUT/truth/PAIR/0000.png, OUT/results.json, OUT/table.md, OUT/sheet.png
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from sample import console, contact_sheet
from sample.evaluation import clip_folders, keyframe_pairs, metrics, report
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair, Pairs
from sample.evaluation.options import CROSS_FADE, RECONSTRUCTION, Request, check
from svdjax import pipeline
from svdjax.checkpoints import checkpoint, delta
from svdjax.data.sources import fingerprint
from svdjax.errors import InputError
from svdjax.models.svd import SVD
from svdjax.models.vae import VAE
from svdjax.runtime import cli, compilation_cache
from svdjax.runtime.atomic import new_file
from svdjax.sampling.conditioning import to_signed_unit
from svdjax.sampling.draws import draw
from svdjax.world.scene import Scene


def evaluate(request: Request) -> None:
    """Frames of every method, then their figures."""
    started = time.monotonic()
    compilation_cache.enable()
    out = request.out
    if request.data is None:
        found = keyframe_pairs.of_world(request.count)
    else:
        found = keyframe_pairs.of_folder(request.data, request.count, request.settings.seed)
    clips = found.pairs
    made = {name: made_by(request, name, found) for name in (TRUTH, *request.methods)}
    out.mkdir(exist_ok=True)
    check_results(out / "results.json", request)
    for name, of in made.items():
        check_same_run(out / name, of)
        for pair in clips:
            clip_folders.check(out / name / pair.name, request.settings.num_frames)
    evaluations = len(request.settings.schedule(request.config.scheduler))
    print(f"{len(clips)} pairs, {request.settings.num_frames} frames of {request.size[0]}x{request.size[1]}; ", end="")
    print(f"{', '.join(request.methods)}; {evaluations} UNet evaluations each; {request.dtype}, {jax.devices()[0]}")
    seconds = {name: generate(request, name, clips, made[name]) for name in made}
    rows = measure(request, clips)
    results = {
        "pairs": [report.describe(pair) for pair in clips],
        "made": made,
        "seconds_a_pair": seconds,
        "device": str(jax.devices()[0]),
        **report.summarise(rows, request, clips),
    }
    write_text(out / "results.json", json.dumps(results, indent=1))
    table = report.table(results)
    write_text(out / "table.md", table)
    contact_sheet.save(report.picture(request, clips), out / "sheet.png")
    print(table)
    print(f"wrote {out / 'results.json'}, table.md and sheet.png beside it, in {time.monotonic() - started:.0f} s")


def made_by(request: Request, name: str, found: Pairs) -> dict[str, Any]:
    """What decides a method's frames."""
    made = {**found.identity, "size": list(request.size), "num_frames": request.settings.num_frames}
    if name not in request.models:
        return made
    path, backward = request.models[name]
    info = checkpoint.read_info(path)
    weights = [info.sources, info.config.to_json(), None if backward is None else delta.content(backward)]
    made |= {"model": path.name, "weights": fingerprint(weights), "dtype": request.dtype}
    if name != RECONSTRUCTION:
        settings = dataclasses.asdict(request.settings)
        made["settings"] = settings | {"guidance": list(request.settings.guidance)}  # as JSON gives it back
    return made


def check_same_run(folder: Path, made: dict[str, Any]) -> None:
    """Refuse a folder of frames that were made from something else."""
    file = folder / "made.json"
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds something else than an evaluation's frames, expected a new folder") from None
        return
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: can't be read ({e})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: is not what an evaluation writes, expected a new folder")
    for name, value in made.items():
        if found.get(name) != value:
            raise InputError(f"{folder}: its frames are of {name} {found.get(name)}, not {value}: give another --out")


def check_results(file: Path, request: Request) -> None:
    """Refuse to replace results that this run would not have, or that are no evaluation's."""
    beside = [path for path in (file.with_name("table.md"), file.with_name("sheet.png")) if path.exists()]
    if not file.exists() and not beside:
        return
    try:
        found = json.loads(file.read_bytes())
        count, methods = len(found["pairs"]), list(found["methods"])
    except FileNotFoundError:
        raise InputError(f"{beside[0]}: would be replaced, and no {file.name} is beside it: give another --out") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: is not what an evaluation writes, and would be replaced: give another --out") from None
    if count > request.count or not set(methods) <= set(request.methods):
        raise InputError(
            f"{file}: is of {count} pairs and {','.join(methods)}, which this run would replace by less: name "
            "these methods and at least as many pairs too, whose frames are used again, or give another --out"
        )


def generate(request: Request, name: str, clips: Sequence[Pair], made: dict[str, Any]) -> float | None:
    """Write a method's frames that aren't there yet, or the truth's. Seconds a pair, where a model is run."""
    folder = request.out / name
    folder.mkdir(exist_ok=True)
    file = folder / "made.json"
    before = json.loads(file.read_bytes()).get("seconds_a_pair") if file.exists() else None
    write_text(file, json.dumps({**made, "seconds_a_pair": before}))
    missing = [pair for pair in clips if not (folder / pair.name).is_dir()]
    if not missing:
        return before
    batch = request.batch_size
    make = maker(request, name)
    times = []
    with tqdm(total=len(missing), desc=name, unit="pair", file=sys.stderr) as bar:
        for start in range(0, len(missing), batch):
            some = missing[start : start + batch]
            begun = time.monotonic()
            filled = [*some, *some[-1:] * (batch - len(some))]  # one shape, one program
            for pair, clip in zip(some, make(filled), strict=False):
                clip_folders.write(folder / pair.name, clip)
            times.append((time.monotonic() - begun) / batch)
            bar.update(len(some))
    if name not in request.models:
        return None
    seconds = float(np.mean(times[1:])) if len(times) > 1 else before  # the first batch's hold the compilation
    write_text(file, json.dumps({**made, "seconds_a_pair": seconds}))
    return seconds


def maker(request: Request, name: str) -> Callable[[Sequence[Pair]], Iterable[np.ndarray]]:
    """What makes the clips of a batch of pairs, uint8 (f, H, W, 3) each."""

    def ends(pair: Pair) -> np.ndarray:
        return clip_folders.read_ends(request.out / TRUTH / pair.name, request.shape)

    if name == TRUTH:
        return lambda some: (pair.read() for pair in some)
    if name == CROSS_FADE:
        return lambda some: (contact_sheet.cross_fade(*ends(pair), request.settings.num_frames) for pair in some)
    path, backward = request.models[name]
    model = checkpoint.load(path, dtype=request.dtype, backward=backward)
    width, height = request.size
    shape = pipeline.latent_shape(request.config, request.settings, (height, width))

    def sample(some: Sequence[Pair]) -> np.ndarray:
        first, last = np.stack([ends(pair) for pair in some], 1)
        seeds = [(request.settings.seed + int(pair.name)) % 2**32 for pair in some]
        draws = draw(seeds, (height, width, 3), shape)
        return pipeline.decode(model, pipeline.sample_pair(model, first, last, request.settings, method=name, draws=draws))

    def encode_and_decode(some: Sequence[Pair]) -> Iterable[np.ndarray]:
        return (reconstruct(model, report.read_clip(request, TRUTH, pair)) for pair in some)

    return encode_and_decode if name == RECONSTRUCTION else sample


def reconstruct(model: SVD, clip: np.ndarray) -> np.ndarray:
    """A clip (f, H, W, 3), uint8, encoded frame by frame, to the mean of each, and decoded as a whole."""
    means = jnp.stack([_mean(model.vae, frame) for frame in clip])
    return pipeline.decode(model, means[None] * model.config.vae.scaling_factor)[0]


@jax.jit
def _mean(vae: VAE, frame: Array) -> Array:
    return vae.encode(to_signed_unit(frame[None]))[0][0]


def measure(request: Request, clips: Sequence[Pair]) -> dict[str, list[dict[str, float]]]:
    """The figures of each method's frames, a mapping a pair."""
    rows: dict[str, list[dict[str, float]]] = {}
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would not survive
    jobs = [
        (name, request.out / TRUTH / pair.name, request.out / name / pair.name, request.shape, pair.scene)
        for name in request.methods
        for pair in clips
    ]
    with (
        ProcessPoolExecutor(request.workers, context) as pool,
        tqdm(total=len(jobs), desc="measuring", unit="clip", file=sys.stderr) as bar,
    ):
        names, *columns = zip(*jobs, strict=True)
        for name, found in zip(names, pool.map(_figures, *columns, chunksize=4), strict=True):
            rows.setdefault(name, []).append(found)
            bar.update()
    return rows


def _figures(truth: Path, folder: Path, shape: clip_folders.Shape, scene: Scene | None) -> dict[str, float]:
    return metrics.figures(clip_folders.read(truth, shape), clip_folders.read(folder, shape), scene)


def write_text(path: Path, text: str) -> None:
    """Write a file, or replace one once the new one is whole; `InputError` if it can't be."""
    with new_file(path) as temporary:
        temporary.write_text(text)


def command(argv: list[str] | None) -> None:
    request = check(argv)
    with console.one_line_errors("frames written before are kept"):
        evaluate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
