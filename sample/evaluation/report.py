"""The report of `sample.evaluate`: facts of the pairs, a table and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from sample import contact_sheet
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.metrics import METRICS, Metric
from sample.evaluation.options import EvaluationRequest
from sample.evaluation.run_folder import read_clip
from sample.evaluation.summary import FRECHET

_SHOWN = 3  # pairs on the sheet, unless the pairs are of the embedded world
_COLUMNS = {FRECHET: Metric("Frechet distance (edges)", False), **METRICS}
# The paper's names of the methods, in the order of the rows on the sheet.
LABELS = {
    "reconstruction": "VAE alone",
    "cross-fade": "cross-fade",
    "forward": "SVD, first keyframe",
    "trf": "TRF",
    "no-rotation": "w/o RA",
    "no-finetune": "w/o FT",
    "dual": "ours",
}


def describe(pair: Pair) -> dict[str, Any]:
    """A pair in `results.json`: name, title; in the embedded world also kind, centres (x, y) in pixels, headings in radians."""
    facts: dict[str, Any] = {"name": pair.name, "title": pair.title}
    if pair.scene is not None:
        facts |= {"kind": pair.scene.kind, "centres": pair.scene.centres.tolist(), "headings": pair.scene.headings.tolist()}
    return facts


def table(results: Mapping[str, Any]) -> str:
    """The metrics as a Markdown table with a row per method; * marks a significant difference from the first method."""
    methods = results["methods"]
    columns = {name: metric for name, metric in _COLUMNS.items() if name in next(iter(methods.values()))}
    heads = [f"{metric.title} {'↑' if metric.higher_is_better else '↓'}" for metric in columns.values()]
    lines = [f"| {len(results['pairs'])} pairs | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, summaries in methods.items():
        cells = [_cell(summaries[name], percent=name == "wrong_way") for name in columns]
        lines.append(f"| {label(method)} | " + " | ".join(cells) + " |")
    groups = results["independent_groups"]
    over = "" if groups == len(results["pairs"]) else f" over {groups} videos"
    first = label(next(iter(methods)))
    note = f"95 % bootstrap intervals{over}; * differs from {first} on the same pairs (the difference's interval excludes 0)."
    return "\n".join([*lines, "", note]) + "\n"


def _cell(summary: Mapping[str, Any], *, percent: bool) -> str:
    mean, (low, high) = summary["mean"], summary["interval"]
    star = ""
    if "difference" in summary:
        least, most = summary["difference"]["interval"]
        star = " *" if least > 0 or most < 0 else ""
    if percent:
        return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f}){star}"
    digits = 3 if max(abs(low), abs(high)) < 2 else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){star}"


def label(method: str) -> str:
    """A method's name in the table and on the sheet: the paper's name, and the command line's if it differs."""
    return LABELS[method] if LABELS[method] == method else f"{LABELS[method]} ({method})"


def sheet(request: EvaluationRequest, pairs: Sequence[Pair]) -> Image.Image:
    """A contact sheet of a few pairs: the truth, then every method in the order of `LABELS`."""
    strips: list[contact_sheet.Strip] = []
    for pair in shown(pairs):
        strips.append((f"truth ({pair.title})", read_clip(request, TRUTH, pair)))
        strips += [(label(name), read_clip(request, name, pair)) for name in LABELS if name in request.methods]
    return contact_sheet.render(strips, [f"frame {i}" for i in range(request.settings.num_frames)])


def shown(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs on the sheet: in the embedded world the first of each kind of object, otherwise the first few."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.scene is not None:
            first.setdefault(pair.scene.kind, pair)
    return list(first.values()) or list(pairs[:_SHOWN])
