"""The folder of an evaluation: which frames and results of an earlier run may be reused or replaced."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sample.evaluation import clip_folders
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.keyframe_pairs import Pair, Pairs
from sample.evaluation.request import RECONSTRUCTION, RIFE, EvaluationRequest
from sample.other_methods import given_clips, rife
from sample.video_pairs import manifest
from svdjax.errors import InputError
from svdjax.kernels.choice import XLA
from svdjax.runtime.atomic import new_file
from svdjax.runtime.output_paths import check_new_file
from svdjax.sampling.settings import Settings

RESULTS, TABLE, SHEET = "results.json", "table.md", "sheet.png"
PAIRS, SCAN = "pairs.csv", "scan.json"
FILES = (RESULTS, TABLE, SHEET, PAIRS, SCAN)
SETTINGS = "settings"
CLIPS = "clips"  # in `identity`: what the clip of each pair was made from
MADE = "made.json"  # in the folder of each method: everything that its frames depend on
OTHER_OUT = "give another --out"


def identity(request: EvaluationRequest, method: str, pairs: Pairs) -> dict[str, Any]:
    """Everything that the frames of a method, or of the truth, depend on, for JSON; `CLIPS` for each pair."""
    facts = {**pairs.identity, "size": list(request.size), "num_frames": request.settings.num_frames}
    origins = {pair.name: pair.origin for pair in pairs.pairs if pair.origin is not None}
    if origins:
        facts[CLIPS] = origins
    if method == RIFE:
        facts |= rife.identity()
    if method in request.given:
        given = given_clips.find(request.given[method], [pair.name for pair in pairs.pairs])
        found = tqdm(given.items(), desc=f"reading {method}", unit="clip", file=sys.stderr, leave=False)
        own = {name: f"{given_clips.origin(candidate)} for {origins.get(name, name)}" for name, candidate in found}
        return facts | {"rule": given_clips.RULE, CLIPS: own}
    if method not in request.models:
        return facts
    model = request.models[method]
    facts |= {"model": model.source.folder.name, "weights": model.fingerprint(), "dtype": request.dtype}
    if method != RECONSTRUCTION:
        facts[SETTINGS] = _as_json(request.method_settings[method])
        facts |= {} if request.kernels == XLA else {"kernels": request.kernels}
    return facts


def _as_json(settings: Settings) -> dict[str, Any]:
    """Settings as JSON returns them, with lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def check_frames(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse a method's folder if its frames have another `identity`.

    Raises:
        InputError: frames of another identity, or a folder that no evaluation wrote.
    """
    file = folder / MADE
    try:
        recorded = json.loads(file.read_bytes())
    except FileNotFoundError:
        # hidden files are temporary: another process may be writing there for the first time
        if folder.exists() and any(not entry.name.startswith(".svdjax-") for entry in folder.iterdir()):
            raise InputError(f"{folder}: was not written by an evaluation, expected a new folder: {OTHER_OUT}") from None
        return
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: can't be read ({e})") from None
    if not isinstance(recorded, dict):
        raise InputError(f"{file}: was not written by an evaluation, expected a new folder: {OTHER_OUT}")
    if isinstance(recorded.get(SETTINGS), dict):  # fields that are newer than the folder had their default
        recorded[SETTINGS] = _as_json(Settings()) | recorded[SETTINGS]
    for name, value in facts.items():
        if name != CLIPS and recorded.get(name) != value:
            raise InputError(f"{folder}: its frames were made with {name} {recorded.get(name)}, not {value}: {OTHER_OUT}")
    before = recorded.get(CLIPS, {})
    if not isinstance(before, dict) or (CLIPS in facts and CLIPS not in recorded):
        raise InputError(f"{folder}: its clips were chosen from --data in another way (by an earlier version?): {OTHER_OUT}")
    for pair, origin in facts.get(CLIPS, {}).items():
        if before.get(pair, origin) != origin:
            raise InputError(f"{folder / pair}: was made from {before[pair]}, not {origin}: {OTHER_OUT}")


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
    for name in FILES:
        file = out / name
        check_new_file(file, "--out", (file.suffix,), overwrite=True)


def recorded_seconds(folder: Path) -> float | None:
    """Seconds per pair from an earlier run, if known."""
    return _recorded(folder).get("seconds_a_pair")


def record(folder: Path, facts: dict[str, Any], seconds: float | None) -> None:
    """Write the `identity` of the frames in a method's folder, also of clips of earlier runs, and the seconds per pair."""
    clips = {CLIPS: _recorded(folder).get(CLIPS, {}) | facts[CLIPS]} if CLIPS in facts else {}
    write_text(folder / MADE, json.dumps({**facts, **clips, "seconds_a_pair": seconds}))


def _recorded(folder: Path) -> dict[str, Any]:
    file = folder / MADE
    return json.loads(file.read_bytes()) if file.exists() else {}


def write_pairs(request: EvaluationRequest, pairs: Sequence[Pair]) -> None:
    """Write `pairs.csv` from the true clips; hashes in an older one are kept for the same clips.

    Raises:
        InputError: it can't be written, or a true clip can't be read.
    """
    if request.manifest is not None:
        manifest.write([request.manifest.rows[pair.name] for pair in pairs], request.out / PAIRS)
        return
    assert request.data is not None
    assert request.cuts is not None
    known = manifest.read_if_any(request.out / PAIRS)
    rows = []
    for pair in tqdm(pairs, desc="hashing", unit="pair", file=sys.stderr, leave=False):
        assert pair.clip is not None
        row = known.get(pair.name)
        if row is None or not manifest.is_of(row, pair.clip):
            hashes = manifest.hashes(read_clip(request, TRUTH, pair))
            row = manifest.row(pair.name, pair.clip, request.data, request.cuts.description, hashes)
        rows.append(row)
    manifest.write(rows, request.out / PAIRS)


def available(request: EvaluationRequest, method: str, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that have a clip of a method; a method of `--clips` may lack some."""
    return [pair for pair in pairs if (request.out / method / pair.name).is_dir()]


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
