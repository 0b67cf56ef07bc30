"""The folder of an evaluation: which frames and results of an earlier run may be reused or replaced."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from sample.evaluation import clip_folders
from sample.evaluation.keyframe_pairs import Pair, Pairs
from sample.evaluation.options import RECONSTRUCTION, EvaluationRequest
from svdjax.errors import InputError
from svdjax.kernels.choice import XLA
from svdjax.runtime.atomic import new_file
from svdjax.runtime.output_paths import check_new_file

RESULTS, TABLE, SHEET = "results.json", "table.md", "sheet.png"
MADE = "made.json"  # in the folder of each method: everything that its frames depend on
OTHER_OUT = "give another --out"


def identity(request: EvaluationRequest, method: str, pairs: Pairs) -> dict[str, Any]:
    """Everything that the frames of a method, or of the truth, depend on, for JSON."""
    facts = {**pairs.identity, "size": list(request.size), "num_frames": request.settings.num_frames}
    if method not in request.models:
        return facts
    model = request.models[method]
    facts |= {"model": model.source.folder.name, "weights": model.fingerprint(), "dtype": request.dtype}
    if method != RECONSTRUCTION:
        settings = dataclasses.asdict(request.settings)
        facts["settings"] = settings | {"guidance": list(request.settings.guidance)}  # a list, as JSON returns it
        facts |= {} if request.kernels == XLA else {"kernels": request.kernels}
    return facts


def check_frames(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse a method's folder if its frames have another `identity`.

    Raises:
        InputError: frames of another identity, or a folder that no evaluation wrote.
    """
    file = folder / MADE
    try:
        recorded = json.loads(file.read_bytes())
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: was not written by an evaluation, expected a new folder: {OTHER_OUT}") from None
        return
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: can't be read ({e})") from None
    if not isinstance(recorded, dict):
        raise InputError(f"{file}: was not written by an evaluation, expected a new folder: {OTHER_OUT}")
    for name, value in facts.items():
        if recorded.get(name) != value:
            raise InputError(f"{folder}: its frames were made with {name} {recorded.get(name)}, not {value}: {OTHER_OUT}")


def check_results(out: Path, request: EvaluationRequest) -> None:
    """Refuse to replace results that this run would not include, or that no evaluation wrote.

    Raises:
        InputError: see above.
    """
    file = out / RESULTS
    others = [path for path in (out / TABLE, out / SHEET) if path.exists()]
    if not file.exists() and not others:
        return
    try:
        results = json.loads(file.read_bytes())
        count, methods = len(results["pairs"]), list(results["methods"])
    except FileNotFoundError:
        raise InputError(f"{others[0]}: would be replaced, but there is no {RESULTS} beside it: {OTHER_OUT}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: was not written by an evaluation and would be replaced: {OTHER_OUT}") from None
    if count > request.count or not set(methods) <= set(request.methods):
        raise InputError(
            f"{file}: holds {count} pairs of {','.join(methods)}, and this run would replace it with less: request these "
            f"methods and at least as many pairs (existing frames are reused), or {OTHER_OUT}"
        )


def check_writable_results(out: Path) -> None:
    """Refuse a folder where the files of the results can't be written.

    Raises:
        InputError: such a file, or a folder in its place.
    """
    for name in (RESULTS, TABLE, SHEET):
        file = out / name
        check_new_file(file, "--out", (file.suffix,), overwrite=True)


def recorded_seconds(folder: Path) -> float | None:
    """Seconds per pair from an earlier run, if known."""
    file = folder / MADE
    return json.loads(file.read_bytes()).get("seconds_a_pair") if file.exists() else None


def record(folder: Path, facts: dict[str, Any], seconds: float | None) -> None:
    """Write the `identity` of the frames in a method's folder, and the seconds per pair."""
    write_text(folder / MADE, json.dumps({**facts, "seconds_a_pair": seconds}))


def read_clip(request: EvaluationRequest, method: str, pair: Pair) -> np.ndarray:
    """The frames of a method, or of the truth, uint8 (f, H, W, 3); see `clip_folders.read`."""
    return clip_folders.read(request.out / method / pair.name, request.shape)


def write_text(path: Path, text: str) -> None:
    """Write or replace a file, complete or not at all.

    Raises:
        InputError: the file can't be written.
    """
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8
