"""`python -m sample.evaluate`: methods measured against the truth on pairs of keyframes that no training saw.

OUT/METHOD/PAIR/0000.png, OUT/truth/PAIR/0000.png, OUT/results.json, OUT/table.md, OUT/sheet.png
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from sample import evaluate_report, pairs, quality, running, sheet
from sample.evaluate_options import CROSS_FADE, Request, check
from sample.pairs import Pair
from svdjax import checkpoint, cli, compilation_cache, delta, pipeline
from svdjax.atomic import new_file
from svdjax.draws import draw
from svdjax.errors import InputError
from train.sources import fingerprint

TRUTH = "truth"


def evaluate(request: Request) -> None:
    """Frames of every method, then their figures."""
    started = time.monotonic()
    compilation_cache.enable()
    out = request.out
    if request.data is None:
        clips = pairs.of_world(request.count)
    else:
        clips = pairs.of_folder(request.data, request.count, request.settings.seed)
    made = {name: made_by(request, name) for name in request.methods}
    out.mkdir(exist_ok=True)
    for name in request.methods:
        check_same_run(out / name, made[name])
    evaluations = len(request.settings.schedule(request.config.scheduler))
    print(f"{len(clips)} pairs, {request.settings.num_frames} frames of {request.size[0]}x{request.size[1]}; ", end="")
    print(f"{', '.join(request.methods)}; {evaluations} UNet evaluations each; {jax.devices()[0]}")
    for pair in clips:
        write_frames(out / TRUTH / pair.name, pair.truth)
    seconds = {}
    for name in request.methods:
        spent = generate(request, name, clips, made[name])
        seconds[name] = spent
    rows = measure(request, clips)
    results = {
        "pairs": [evaluate_report.describe(pair) for pair in clips],
        "made": made,
        "seconds_a_pair": seconds,
        "device": str(jax.devices()[0]),
        **evaluate_report.summarise(rows, request, clips),
    }
    write_text(out / "results.json", json.dumps(results, indent=1))
    table = evaluate_report.table(results)
    write_text(out / "table.md", table)
    sheet.save(evaluate_report.picture(request, clips, read_frames), out / "sheet.png")
    print(table)
    print(f"wrote {out / 'results.json'}, table.md and sheet.png beside it, in {time.monotonic() - started:.0f} s")


def made_by(request: Request, name: str) -> dict[str, Any]:
    """What decides a method's frames."""
    if name == CROSS_FADE:
        return {"data": request.identity()["data"], "size": list(request.size), "num_frames": request.settings.num_frames}
    path, backward = request.models[name]
    weights = [checkpoint.read_info(path).sources, None if backward is None else delta.read_backward_info(backward)]
    return {**request.identity(), "model": path.name, "weights": fingerprint(weights)}


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
    for name, value in made.items():
        if found.get(name) != value:
            raise InputError(f"{folder}: its frames are of {name} {found.get(name)}, not {value}: give another --out")


def generate(request: Request, name: str, clips: Sequence[Pair], made: dict[str, Any]) -> float | None:
    """Write a method's frames that aren't there yet. Seconds a pair, the first batch and its compilation left out."""
    folder = request.out / name
    folder.mkdir(exist_ok=True)
    write_text(folder / "made.json", json.dumps(made))
    missing = [i for i, pair in enumerate(clips) if not (folder / pair.name).is_dir()]
    if name == CROSS_FADE:
        for i in missing:
            truth = clips[i].truth
            write_frames(folder / clips[i].name, sheet.cross_fade(truth[0], truth[-1], len(truth)))
        return None
    if not missing:
        return None
    path, backward = request.models[name]
    model = checkpoint.load(path, dtype=running.compute_dtype(request.dtype), backward=backward)
    width, height = request.size
    shape = pipeline.latent_shape(request.config, request.settings, (height, width))
    times = []
    with tqdm(total=len(missing), desc=name, unit="pair", file=sys.stderr) as bar:
        for start in range(0, len(missing), request.batch_size):
            numbers = missing[start : start + request.batch_size]
            filled = numbers + numbers[-1:] * (request.batch_size - len(numbers))  # one shape, one program
            begun = time.monotonic()
            frames = pipeline.decode(
                model,
                pipeline.sample_pair(
                    model,
                    np.stack([clips[i].truth[0] for i in filled]),
                    np.stack([clips[i].truth[-1] for i in filled]),
                    request.settings,
                    method=name,
                    draws=draw([(request.settings.seed + i) % 2**32 for i in filled], (height, width, 3), shape),
                ),
            )
            times.append((time.monotonic() - begun) / request.batch_size)
            for i, clip in zip(numbers, frames, strict=False):
                write_frames(folder / clips[i].name, clip)
            bar.update(len(numbers))
    return float(np.mean(times[1:])) if len(times) > 1 else None


def measure(request: Request, clips: Sequence[Pair]) -> dict[str, list[dict[str, float]]]:
    """The figures of each method's frames, a mapping a pair."""
    rows: dict[str, list[dict[str, float]]] = {}
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would not survive
    jobs = [(name, pair) for name in request.methods for pair in clips]
    with (
        ProcessPoolExecutor(request.workers, context) as pool,
        tqdm(total=len(jobs), desc="measuring", unit="clip", file=sys.stderr) as bar,
    ):
        folders = [request.out / name / pair.name for name, pair in jobs]
        for (name, _), found in zip(jobs, pool.map(_figures, [p for _, p in jobs], folders, chunksize=4), strict=True):
            rows.setdefault(name, []).append(found)
            bar.update()
    return rows


def _figures(pair: Pair, folder: Path) -> dict[str, float]:
    return quality.figures(pair, read_frames(folder))


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """A folder of PNGs, whole or not at all; one that is there stays."""
    if folder.is_dir():
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(temporary / f"{i:04d}.png")
        temporary.rename(folder)
    except OSError as e:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(f"{folder}: can't be written ({e.strerror}); the same command goes on from here") from None


def read_frames(folder: Path) -> np.ndarray:
    """uint8 (f, H, W, 3)."""
    try:
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])
    except (OSError, ValueError) as e:
        raise InputError(f"{folder}: its frames can't be read ({e}); remove it and run again") from None


def write_text(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(text)


def command(argv: list[str] | None) -> None:
    request = check(argv)
    with running.one_line_errors("frames written before are kept"):
        evaluate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
