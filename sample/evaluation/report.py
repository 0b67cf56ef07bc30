"""What `sample.evaluate` tells: figures with intervals, a table, a picture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sample import contact_sheet
from sample.evaluation import bootstrap, clip_folders, frechet
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.metrics import FIGURES
from sample.evaluation.options import Request

FRECHET = "frechet"
_RESAMPLES = 200  # of the Frechet distance, which takes longer than a mean
_SHOWN = 3  # pairs in the picture, where there are no kinds of them
# What the paper calls the methods, in the order of the picture's rows.
LABELS = {
    "reconstruction": "VAE alone",
    "cross-fade": "cross-fade",
    "forward": "SVD, first keyframe",
    "trf": "TRF",
    "no-rotation": "w/o RA",
    "no-finetune": "w/o FT",
    "dual": "ours",
}

Rows = Mapping[str, Sequence[Mapping[str, float]]]


def describe(pair: Pair) -> dict[str, Any]:
    """A pair in `results.json`: its name, and of the embedded world the true centres (x, y) and headings, in radians."""
    found: dict[str, Any] = {"name": pair.name, "title": pair.title}
    if pair.scene is not None:
        found |= {"kind": pair.scene.kind, "centres": pair.scene.centres.tolist(), "headings": pair.scene.headings.tolist()}
    return found


def summarise(rows: Rows, request: Request, clips: Sequence[Pair]) -> dict[str, Any]:
    """Of each method: every figure's mean, 95 % interval and values by pair, and the Frechet distance to the truth.

    Methods after the first have each figure's `difference` from the first method's too, with the interval of that: both on the
    same pairs, which differ among each other by more than methods do.
    """

    read = functools.partial(read_clip, request)

    def features(name: str) -> np.ndarray:
        return np.stack([frechet.features(read(name, pair)[1:-1]) for pair in clips])

    def frechet_of(name: str) -> Callable[[np.ndarray], float]:
        made = features(name)
        return lambda pairs: frechet.distance(np.concatenate(truth[pairs]), np.concatenate(made[pairs]))

    truth = features(TRUTH)
    groups = bootstrap.groups_of([pair.group for pair in clips])
    summary: dict[str, Any] = {}
    first: dict[str, Callable[[np.ndarray], float]] = {}
    for name, of_pairs in tqdm(rows.items(), desc="intervals", unit="method", leave=False):
        columns = {figure: np.array([row[figure] for row in of_pairs]) for figure in of_pairs[0]}
        of = {figure: functools.partial(_mean, values) for figure, values in columns.items()} | {FRECHET: frechet_of(name)}
        first = first or of
        summary[name] = {}
        for figure, statistic in of.items():
            how: dict[str, Any] = {"resamples": _RESAMPLES, "biased": True} if figure == FRECHET else {}
            found = bootstrap.with_interval(statistic, groups, **how)
            if figure == FRECHET:  # mirrored, it can reach below what a distance can be
                found["interval"] = [max(0.0, bound) for bound in found["interval"]]
            if figure in columns:
                found["by_pair"] = columns[figure].tolist()
            if of is not first:
                found["difference"] = bootstrap.with_interval(
                    lambda pairs, a=statistic, b=first[figure]: a(pairs) - b(pairs), groups, **how
                )
            summary[name][figure] = found
    return {"encoder": frechet.ENCODER, "independent_groups": len(groups), "methods": summary}


def read_clip(request: Request, name: str, pair: Pair) -> np.ndarray:
    """A method's frames of a pair, or the truth's, uint8 (f, H, W, 3); errors as of `clip_folders.read`."""
    return clip_folders.read(request.out / name / pair.name, request.shape)


def _mean(values: np.ndarray, pairs: np.ndarray) -> float:
    return float(values[pairs].mean())


def table(results: Mapping[str, Any]) -> str:
    """The figures as Markdown, methods as rows; a star where one differs from the first method's beyond chance."""
    found = results["methods"]
    names = {FRECHET: ("Frechet distance (edges)", False), **FIGURES}
    columns = [name for name in names if name in next(iter(found.values()))]
    heads = [f"{names[name][0]} {'↑' if names[name][1] else '↓'}" for name in columns]
    lines = [f"| {len(results['pairs'])} pairs | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, figures in found.items():
        cells = [_cell(figures[name], name == "wrong_way") for name in columns]
        lines.append(f"| {label(method)} | " + " | ".join(cells) + " |")
    groups = results["independent_groups"]
    of = "" if groups == len(results["pairs"]) else f" over {groups} videos"
    note = f"95 % bootstrap intervals{of}; * differs from {label(next(iter(found)))} on the same pairs, beyond chance."
    return "\n".join([*lines, "", note]) + "\n"


def _cell(figure: Mapping[str, Any], percent: bool) -> str:
    mean, (low, high) = figure["mean"], figure["interval"]
    least, most = figure.get("difference", figure)["interval"]
    star = " *" if "difference" in figure and (least > 0 or most < 0) else ""
    if percent:
        return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f}){star}"
    digits = 3 if max(abs(low), abs(high)) < 2 else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){star}"


def label(method: str) -> str:
    """What a method is called in tables and pictures: by the paper, and by the flag where that is another."""
    return LABELS[method] if LABELS[method] == method else f"{LABELS[method]} ({method})"


def picture(request: Request, clips: Sequence[Pair]) -> Image.Image:
    """A few pairs: the truth, then every method in the order of `LABELS`."""
    rows = []
    methods = [name for name in LABELS if name in request.methods]
    for pair in shown(clips):
        rows.append((f"truth ({pair.title})", read_clip(request, TRUTH, pair)))
        rows += [(label(name), read_clip(request, name, pair)) for name in methods]
    return contact_sheet.draw(rows, [f"frame {i}" for i in range(request.settings.num_frames)])


def shown(clips: Sequence[Pair]) -> list[Pair]:
    """Those in the picture: of the world the first of each kind of thing, of other clips the first few."""
    first: dict[str, Pair] = {}
    for pair in clips:
        if pair.scene is not None:
            first.setdefault(pair.scene.kind, pair)
    return list(first.values()) or list(clips[:_SHOWN])
