"""The HTML report of `sample.evaluate`: figures, and the clips of all methods side by side, in one file without a network."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sample.evaluation import report, run_folder
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair
from sample.evaluation.request import EvaluationRequest
from sample.quality import catalog

LARGEST = 256  # pixels, the longer side of a frame in the report
MOST_BYTES = 24 * 2**20  # of all pictures; the report shows as many pairs as fit
_QUALITY = 75  # of WebP


def page(request: EvaluationRequest, pairs: Sequence[Pair], results: Mapping[str, Any]) -> str:
    """The report as HTML.

    Args:
        request: the command line.
        pairs: all pairs of the evaluation.
        results: what `results.json` holds.
    """
    methods = results["methods"]
    computed = next(iter(methods.values()))
    tables = [names for kind in catalog.TABLES if (names := catalog.names_in(kind, computed))]
    shown, width, height = _clips(request, pairs)
    frames = request.settings.num_frames
    size = f"{request.size[0]}x{request.size[1]}"
    facts = f"{len(pairs)} pairs of keyframes, {frames} frames of {size}. {report.interval_note(results)}"
    facts += f" Clips of {len(shown)} of {len(pairs)} pairs are shown, {width}x{height}, WebP of quality {_QUALITY}"
    facts += f", at most {MOST_BYTES // 2**20} MiB together." if len(shown) < len(pairs) else "."
    data = {
        "facts": facts,
        "notes": [f"Warning: {warning}." for warning in results["warnings"]],
        "definitions": [report.definition(facts) for facts in results["figures"].values()],
        "tables": tables,
        "figures": {
            name: {"title": catalog.FIGURES[name].title, "higher": catalog.FIGURES[name].higher_is_better}
            for names in tables
            for name in names
        },
        "by_pair": [name for names in tables for name in names if "by_pair" in computed[name]],
        "labels": {TRUTH: "truth"} | {method: report.label(method) for method in methods},
        "methods": {
            method: {
                name: {"mean": found["mean"], "by_pair": found.get("by_pair"), "text": report.cell(name, found, len(pairs))}
                for name, found in summaries.items()
            }
            for method, summaries in methods.items()
        },
        "frames": frames,
        "columns": _columns(frames),
        "width": width,
        "height": height,
        "pairs": shown,
    }
    template = importlib.resources.files("sample.quality").joinpath("report.html").read_text(encoding="utf-8")
    # `<` could end the script element
    return template.replace("@DATA@", json.dumps(data, allow_nan=False).replace("<", "\\u003c"))


def _clips(request: EvaluationRequest, pairs: Sequence[Pair]) -> tuple[list[dict[str, Any]], int, int]:
    """The first pairs with their pictures, as many as fit in `MOST_BYTES`, at least one; width and height of a frame."""
    scale = min(1.0, LARGEST / max(request.size))
    width, height = (max(1, round(side * scale)) for side in request.size)
    shown: list[dict[str, Any]] = []
    total = 0
    for number, pair in enumerate(tqdm(pairs, desc="HTML report", unit="pair", leave=False, file=sys.stderr)):
        clips = {
            method: _picture(run_folder.read_clip(request, method, pair), width, height)
            for method in (TRUTH, *request.methods)
            if run_folder.available(request, method, [pair])
        }
        total += sum(map(len, clips.values()))
        if shown and total > MOST_BYTES:
            break
        shown.append({"number": number, "title": report.title(pair), "clips": clips})
    return shown, width, height


def _picture(frames: np.ndarray, width: int, height: int) -> str:
    """All frames of a clip in a grid, as a WebP picture in a data URI; frames are uint8 (f, H, W, 3)."""
    columns = _columns(len(frames))
    grid = Image.new("RGB", (columns * width, math.ceil(len(frames) / columns) * height))
    for i, frame in enumerate(frames):
        small = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
        grid.paste(small, (i % columns * width, i // columns * height))
    file = io.BytesIO()
    grid.save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _columns(frames: int) -> int:
    return math.ceil(math.sqrt(frames))
