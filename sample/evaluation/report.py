"""The report of `sample.evaluate`: facts of the pairs, a table and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from sample import contact_sheet
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.figure_options import FLOW
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.options import EvaluationRequest
from sample.evaluation.run_folder import available, read_clip
from sample.quality import catalog

_SHOWN = 3  # pairs on the sheet, unless the pairs are of the embedded world
_PERCENT = ("wrong_way", FLOW)  # shown in percent
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
    """The figures as Markdown tables with a row per method, and what each figure is.

    The first table compares frames with the truth, the second sets of clips, the third is of the embedded world; * marks a
    significant difference from the reference.
    """
    methods = results["methods"]
    computed = next(iter(methods.values()))
    tables = [_table(results, names) for kind in catalog.TABLES if (names := catalog.names_in(kind, computed))]
    notes = [f"Warning: {warning}." for warning in results["warnings"]]
    figures = [f"- {definition(facts)}" for facts in results["figures"].values()]
    return "\n\n".join([*tables, interval_note(results), *notes, "\n".join(figures)]) + "\n"


def interval_note(results: Mapping[str, Any]) -> str:
    """What the intervals and stars in the tables are."""
    groups = results["independent_groups"]
    over = "" if groups == len(results["pairs"]) else f" over {groups} videos"
    if results["videos"] == 1:
        over = " (all pairs are of one video and treated as independent: too narrow for other videos)"
    other = label(results["reference"])
    return f"95 % bootstrap intervals{over}; * differs from {other} on the same pairs (the difference's interval excludes 0)."


def _table(results: Mapping[str, Any], names: Sequence[str]) -> str:
    figures = [catalog.FIGURES[name] for name in names]
    heads = [f"{figure.title} {'↑' if figure.higher_is_better else '↓'}" for figure in figures]
    pairs = len(results["pairs"])
    lines = [f"| {pairs} pairs | " + " | ".join(heads) + " |", "|---" * (len(names) + 1) + "|"]
    for method, summaries in results["methods"].items():
        cells = [cell(name, summaries[name], pairs) for name in names]
        lines.append(f"| {label(method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(name: str, summary: Mapping[str, Any], pairs: int) -> str:
    """A figure with its interval, and the number of its pairs if it is below `pairs`."""
    if summary["mean"] is None:
        return f"none, {summary['pairs']} pairs"
    mean, (low, high) = summary["mean"], summary["interval"]
    star = ""
    if "difference" in summary:
        least, most = summary["difference"]["interval"]
        star = " *" if least > 0 or most < 0 else ""
    star += f", {summary['pairs']} pairs" if summary["pairs"] < pairs else ""
    if name in _PERCENT:
        return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f}){star}"
    digits = 3 if max(abs(low), abs(high)) < 2 else 2
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){star}"


def definition(facts: Mapping[str, Any]) -> str:
    """What a figure is, on one line."""
    parts = [facts["what"], *(f"{name} {facts[name]}" for name in ("encoder", "resize") if name in facts)]
    if "weights" in facts:
        parts.append(f"weights {facts['weights']} (SHA-256 {facts['weights_sha256'][:16]})")
    if "package" in facts:
        parts.append(facts["package"])
    samples = f", {facts['samples']} samples of {facts['features']} features" if "samples" in facts else ""
    parts.append(f"frames: {facts['frames']}; {facts['clips']} clips of {facts['resolution']}{samples}")
    return f"{facts['title']}: {'; '.join(parts)}"


def label(method: str) -> str:
    """A method's name in the table and on the sheet: the paper's name, and the command line's if it differs."""
    return method if LABELS.get(method, method) == method else f"{LABELS[method]} ({method})"


def title(pair: Pair) -> str:
    """A pair's title in the HTML report; its name is the name of its folders."""
    return f"{pair.name}: {pair.title}"


def sheet(request: EvaluationRequest, pairs: Sequence[Pair]) -> Image.Image:
    """A contact sheet of a few pairs: the truth, then every method in the order of `LABELS`."""
    strips: list[contact_sheet.Strip] = []
    for pair in shown(pairs):
        strips.append((f"truth ({pair.title})", read_clip(request, TRUTH, pair)))
        names = sorted(request.methods, key=lambda name: list(LABELS).index(name) if name in LABELS else len(LABELS))
        strips += [(label(name), read_clip(request, name, pair)) for name in names if available(request, name, [pair])]
    return contact_sheet.render(strips, [f"frame {i}" for i in range(request.settings.num_frames)])


def shown(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs on the sheet: in the embedded world the first of each kind of object, otherwise the first few."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        if pair.scene is not None:
            first.setdefault(pair.scene.kind, pair)
    return list(first.values()) or list(pairs[:_SHOWN])
