"""`python -m sample.evaluate`: compare methods with the true frames between pairs of keyframes.

Writes OUT/METHOD/PAIR/0000.png, ..., OUT/truth/PAIR/0000.png, ..., OUT/results.json, OUT/table.md and OUT/sheet.png; for pairs
from videos also OUT/pairs.csv, from which the same pairs can be cut again, and with --html a report that plays the clips.
OUT/METHOD/PAIR/measured.npz keeps what was measured; see `sample.quality.measured`.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sample import console, contact_sheet, planned_model
from sample.batches.jobs import stamp
from sample.evaluation import clip_folders, keyframe_pairs, report, run_folder, summary
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.generate import generate
from sample.evaluation.keyframe_pairs import Pair, Pairs
from sample.evaluation.options import parse
from sample.evaluation.request import EvaluationRequest
from sample.evaluation.run_folder import CLIPS, RESULTS, SCAN, SHEET, TABLE
from sample.output_files import Outputs
from sample.quality import html_report, measured
from svdjax.data import scan_records
from svdjax.kernels.choice import using
from svdjax.runtime import cli, compilation_cache
from svdjax.runtime.output_paths import check_writable


def evaluate(request: EvaluationRequest) -> None:
    """Generate the frames of every method, compute their metrics and write the results."""
    started = time.monotonic()
    compilation_cache.enable()
    out, settings = request.out, request.settings
    before = stamp(out / RESULTS)
    run_folder.check_results(out, request)
    chosen = choose_pairs(request)
    pairs = chosen.pairs
    made = {name: run_folder.identity(request, name, chosen) for name in (TRUTH, *request.methods)}
    out.mkdir(exist_ok=True)
    run_folder.check_writable_results(out)
    for name, facts in made.items():
        run_folder.check_frames(out / name, facts)
        if (out / name).is_dir():
            check_writable(out / name)
        for pair in pairs:
            clip_folders.check_clip_folder(out / name / pair.name, settings.num_frames)
    print(f"{len(pairs)} pairs, {settings.num_frames} frames of {request.size[0]}x{request.size[1]}; ", end="")
    print(
        f"{', '.join(map(request.describe_method, request.methods))}; {request.dtype}, {planned_model.describe(request.mesh)}"
    )
    for name, reason in request.figures.left_out.items():
        print(f"without {name}: {reason}")
    seconds = {}
    for name, facts in made.items():
        seconds[name] = generate(request, name, pairs, facts)
        if name == TRUTH and request.data is not None and not request.claims.shared:
            run_folder.write_pairs(request, pairs)
    # one of the processes that share the pairs measures them
    with request.claims.take([out / RESULTS], lambda file: stamp(file) != before, leave_to_others=True) as units:
        for (_,) in units:
            report_on(request, pairs, made, seconds, started)
            return
    print(f"another process writes {RESULTS} and the other results in {out}")


def report_on(
    request: EvaluationRequest,
    pairs: Sequence[Pair],
    made: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float | None],
    started: float,
) -> None:
    """Compute the metrics of all clips and write the results.

    Args:
        request: the command line.
        pairs: all pairs of the evaluation.
        made: the `run_folder.identity` of the truth and each method.
        seconds: per pair of the truth and each method.
        started: `time.monotonic()` at the start of the run.
    """
    out = request.out
    if request.claims.shared and request.data is not None:
        run_folder.write_pairs(request, pairs)
    results = {
        "pairs": [report.describe(pair) for pair in pairs],
        "clips": request.describe(),
        "made": {name: {key: value for key, value in facts.items() if key != CLIPS} for name, facts in made.items()},
        "seconds_a_pair": seconds,
        "device": planned_model.describe(request.mesh),
        **summary.summarise(request, pairs, measured.measure(request, pairs)),
    }
    table = report.table(results)
    outputs, written = Outputs(), []
    for name, write in (
        (RESULTS, lambda file: run_folder.write_text(file, json.dumps(results, indent=1))),
        (TABLE, lambda file: run_folder.write_text(file, table)),
        (SHEET, lambda file: contact_sheet.save(report.sheet(request, pairs), file)),
    ):
        with outputs.attempt():
            write(out / name)
            written.append(name)
    if (html := request.figures.html) is not None:
        with outputs.attempt():
            run_folder.write_text(html, html_report.page(request, pairs, results))
            written.append(html.name if html.parent == out else str(html))
    print(table)
    print(f"wrote {', '.join(written) or 'no results'} in {out} in {console.duration(time.monotonic() - started)}")
    outputs.finish()


def choose_pairs(request: EvaluationRequest) -> Pairs:
    """The pairs of an evaluation. Videos are read once: the folder of the results keeps what was measured."""
    if request.data is None:
        return keyframe_pairs.of_world(request.count)
    if request.manifest is not None:
        return keyframe_pairs.of_manifest(request.data, request.count, request.manifest)
    assert request.cuts is not None
    if request.claims.shared:
        request.out.mkdir(exist_ok=True)
        with request.claims.take([request.out / SCAN], Path.exists) as units:
            for (_,) in units:  # the others wait, and then read what it measured
                return _of_folder(request)
    return _of_folder(request)


def _of_folder(request: EvaluationRequest) -> Pairs:
    assert request.data is not None
    assert request.cuts is not None
    records = scan_records.read(request.out / SCAN)
    try:
        return keyframe_pairs.of_folder(
            request.data, request.count, request.settings.seed, request.cuts, request.workers, records
        )
    finally:  # also after Ctrl-C or with too few pairs: the next run need not read the videos again
        if records.found:
            request.out.mkdir(exist_ok=True)
            scan_records.write(records, request.out / SCAN)


def command(argv: list[str] | None) -> None:
    request = parse(argv)
    with console.one_line_errors("frames written before are kept"), using(request.kernels):
        evaluate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
