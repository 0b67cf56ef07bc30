"""What `sample.evaluate` tells: figures with intervals, a table, a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sample import frechet, intervals, sheet
from sample.evaluate_options import Request
from sample.pairs import Pair
from sample.quality import FIGURES

FRECHET = "frechet"
_RESAMPLES = 200  # of the Frechet distance, which takes some ten milliseconds
_SHOWN = 3  # pairs in the picture

Rows = Mapping[str, Sequence[Mapping[str, float]]]


def describe(pair: Pair) -> dict[str, Any]:
    """A pair in `results.json`: its name, and of the embedded world the true centres (x, y) and headings, in radians."""
    found: dict[str, Any] = {"name": pair.name, "title": pair.title}
    if pair.scene is not None:
        found |= {"kind": pair.scene.kind, "centres": pair.scene.centres.tolist(), "headings": pair.scene.headings.tolist()}
    return found


def summarise(rows: Rows, request: Request, clips: Sequence[Pair]) -> dict[str, Any]:
    """Of each method: every figure's mean, 95 % interval and values by pair, and the Frechet distance to the truth."""
    from sample.evaluate import TRUTH, read_frames

    def features(name: str) -> np.ndarray:
        return np.stack([frechet.features(read_frames(request.out / name / pair.name)[1:-1]) for pair in clips])

    truth = features(TRUTH)
    summary = {}
    for name, of_pairs in tqdm(rows.items(), desc="intervals", unit="method", leave=False):
        columns = {figure: np.array([row[figure] for row in of_pairs]) for figure in of_pairs[0]}
        figures = {figure: {**intervals.of_mean(values), "by_pair": values.tolist()} for figure, values in columns.items()}
        figures[FRECHET] = _frechet(truth, features(name))
        summary[name] = figures
    return {"encoder": frechet.ENCODER, "methods": summary}


def _frechet(truth: np.ndarray, made: np.ndarray) -> dict[str, Any]:
    def of(pairs: np.ndarray) -> float:
        width = truth.shape[-1]
        return frechet.distance(truth[pairs].reshape(-1, width), made[pairs].reshape(-1, width))

    low, high = intervals.interval(of, len(truth), _RESAMPLES)
    return {"mean": of(np.arange(len(truth))), "interval": [low, high]}


def table(results: Mapping[str, Any]) -> str:
    """The figures as Markdown, methods as rows."""
    found = results["methods"]
    names = {FRECHET: ("Frechet distance (HOG)", False), **FIGURES}
    columns = [name for name in names if name in next(iter(found.values()))]
    heads = [f"{names[name][0]} {'↑' if names[name][1] else '↓'}" for name in columns]
    lines = [f"| {len(results['pairs'])} pairs | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, figures in found.items():
        cells = [_cell(figures[name], name == "wrong_way") for name in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(figure: Mapping[str, Any], percent: bool) -> str:
    mean, (low, high) = figure["mean"], figure["interval"]
    if percent:
        return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    digits = 3 if max(abs(low), abs(high)) < 2 else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def picture(request: Request, clips: Sequence[Pair], read: Callable[[Path], np.ndarray]) -> Image.Image:
    """The first few pairs: the truth, then every method."""
    rows = []
    for pair in clips[:_SHOWN]:
        rows.append((f"truth ({pair.title})", pair.truth))
        rows += [(name, read(request.out / name / pair.name)) for name in request.methods]
    return sheet.draw(rows, [f"frame {i}" for i in range(request.settings.num_frames)])
