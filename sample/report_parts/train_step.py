"""A training step of the backward fine-tune, measured by `sample.benchmark --train` in a separate process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sample.benchmarking.workloads import PRESETS
from sample.gpu_report.channel import Reporter, Request
from sample.gpu_report.failures import PYTORCH, not_installed, of_command
from svdjax.errors import InputError

FRAMES = 14  # of the paper's training clips
OFFICIAL_BYTES = 120e9  # PyTorch's step of SVD-XT next to ours, 14 frames of `FULL`; the official code asks for 80 GB
FULL = (1024, 576)  # (width, height)
SMALLER = (576, 320)  # size of the comparison where the size of the report needs too much memory
TASK = " ..."  # end of a line of progress of the benchmark


def measure(request: Request, reporter: Reporter) -> None:
    """Report our step; compared with PyTorch's at the same size where both fit, else at a smaller size."""
    lacking = not_installed(PYTORCH)
    compared = lacking is None
    if lacking is not None:
        reporter.note(f"no comparison with PyTorch: {lacking}")
    fits = not request.gpu or _comparison_fits(request)
    _benchmark(request, request.size, compared and fits, reporter.progress, reporter.results)
    if compared and not fits:
        size = f"{SMALLER[0]}x{SMALLER[1]}"
        with reporter.attempt("comparison with PyTorch"):
            _benchmark(
                request,
                SMALLER,
                True,
                lambda task: reporter.progress(f"at {size}: {task}"),
                lambda values: reporter.results({"smaller": values}),
            )


def _comparison_fits(request: Request) -> bool:
    """Whether the GPU has the memory for both steps, in proportion to the pixels. A size up to the smaller one is tried."""
    pixels, full = math.prod(request.size), math.prod(FULL)
    needed = OFFICIAL_BYTES * pixels / full * min(FRAMES, request.num_frames) / FRAMES
    return (request.memory_bytes or 0) >= needed or pixels <= math.prod(SMALLER)


def _benchmark(
    request: Request,
    size: tuple[int, int],
    against: bool,
    progress: Callable[[str], None],
    found: Callable[[dict[str, Any]], None],
) -> None:
    """Call `found` with the measurements of `--json` so far whenever there are more, and `progress` with each task."""
    model = "--preset" if request.model in PRESETS else "--model"
    frames = min(FRAMES, request.num_frames)
    with tempfile.TemporaryDirectory(prefix="svdjax-report-") as folder:
        file = Path(folder) / "train.json"
        command = ["--train", model, request.model, "--size", f"{size[0]}x{size[1]}", "--num-frames", str(frames)]
        command += ["--dtype", request.dtype, "--batch-size", "1", "--repeats", str(request.repeats), "--json", str(file)]
        command += ["--against", "diffusers"] if against else []
        lines, before = [], {}

        def look() -> None:
            nonlocal before
            if file.exists() and (values := _measured(file)) != before:
                before = values
                found(values)

        with subprocess.Popen(
            [sys.executable, "-P", "-m", "sample.benchmark", *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                sys.stderr.flush()
                lines.append(line)
                if line.rstrip().endswith(TASK):
                    progress(line.rstrip().removesuffix(TASK))
                look()
        look()
        if process.returncode:
            raise InputError(f"the training benchmark failed: {of_command(process.returncode, ''.join(lines))}")


def _measured(file: Path) -> dict[str, Any]:
    """The measurements of `--json`, without its description of the model and the versions."""
    values = json.loads(file.read_text())
    return {key: value for key, value in values.items() if key not in ("config", "versions", "date", "command", "device")}
