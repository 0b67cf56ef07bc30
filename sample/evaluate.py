"""`python -m sample.evaluate`: compare methods with the true frames between pairs of keyframes.

Writes OUT/METHOD/PAIR/0000.png, ..., OUT/truth/PAIR/0000.png, ..., OUT/results.json, OUT/table.md and OUT/sheet.png.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import json
import time

import jax

from sample import console, contact_sheet
from sample.evaluation import clip_folders, keyframe_pairs, report, run_folder, summary
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.generate import generate
from sample.evaluation.options import CROSS_FADE, RECONSTRUCTION, EvaluationRequest, parse
from sample.evaluation.run_folder import RESULTS, SHEET, TABLE
from sample.output_files import Outputs
from svdjax.kernels.choice import using
from svdjax.runtime import cli, compilation_cache
from svdjax.runtime.output_paths import check_writable


def evaluate(request: EvaluationRequest) -> None:
    """Generate the frames of every method, compute their metrics and write the results."""
    started = time.monotonic()
    compilation_cache.enable()
    out, settings = request.out, request.settings
    if request.data is None:
        chosen = keyframe_pairs.of_world(request.count)
    else:
        chosen = keyframe_pairs.of_folder(request.data, request.count, settings.seed)
    pairs = chosen.pairs
    made = {name: run_folder.identity(request, name, chosen) for name in (TRUTH, *request.methods)}
    out.mkdir(exist_ok=True)
    run_folder.check_results(out, request)
    run_folder.check_writable_results(out)
    for name, facts in made.items():
        run_folder.check_frames(out / name, facts)
        if (out / name).is_dir():
            check_writable(out / name)
        for pair in pairs:
            clip_folders.check_clip_folder(out / name / pair.name, settings.num_frames)
    sampled = [name for name in request.methods if name not in (CROSS_FADE, RECONSTRUCTION)]
    evaluations = f"; {len(settings.schedule(request.config.scheduler))} UNet evaluations for each of {', '.join(sampled)}"
    print(f"{len(pairs)} pairs, {settings.num_frames} frames of {request.size[0]}x{request.size[1]}; ", end="")
    print(f"{', '.join(request.methods)}{evaluations if sampled else ''}; {request.dtype}, {jax.devices()[0]}")
    seconds = {name: generate(request, name, pairs, facts) for name, facts in made.items()}
    results = {
        "pairs": [report.describe(pair) for pair in pairs],
        "made": made,
        "seconds_a_pair": seconds,
        "device": str(jax.devices()[0]),
        **summary.summarise(request, pairs, summary.measure(request, pairs)),
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
    print(table)
    print(f"wrote {', '.join(written) or 'no results'} in {out} in {console.duration(time.monotonic() - started)}")
    outputs.finish()


def command(argv: list[str] | None) -> None:
    request = parse(argv)
    with console.one_line_errors("frames written before are kept"), using(request.kernels):
        evaluate(request)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
