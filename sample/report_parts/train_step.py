"""A training step of the backward fine-tune, measured by `sample.benchmark --train` in a separate process."""

from __future__ import annotations

import json
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
OFFICIAL_BYTES = 120e9  # PyTorch's step at full size next to ours; the official code asks for a GPU of 80 GB
SMALLER = (576, 320)  # size of the comparison on other GPUs, (width, height)
TASK = " ..."  # end of a line of progress of the benchmark


def measure(request: Request, reporter: Reporter) -> None:
    """Report our step at full size; compared with PyTorch's at full size where that fits, else at a smaller size."""
    lacking = not_installed(PYTORCH)
    compared = lacking is None
    if lacking is not None:
        reporter.note(f"no comparison with PyTorch: {lacking}")
    fits = not request.gpu or (request.memory_bytes or 0) >= OFFICIAL_BYTES
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


def _benchmark(
    request: Request,
    size: tuple[int, int],
    against: bool,
    progress: Callable[[str], None],
    found: Callable[[dict[str, Any]], None],
) -> None:
    """Call `found` with the measurements of `--json`, first those before the comparison, and `progress` with each task."""
    model = "--preset" if request.model in PRESETS else "--model"
    frames = min(FRAMES, request.num_frames)
    with tempfile.TemporaryDirectory(prefix="svdjax-report-") as folder:
        file = Path(folder) / "train.json"
        command = ["--train", model, request.model, "--size", f"{size[0]}x{size[1]}", "--num-frames", str(frames)]
        command += ["--dtype", request.dtype, "--batch-size", "1", "--repeats", str(request.repeats), "--json", str(file)]
        command += ["--against", "diffusers"] if against else []
        lines, before = [], {}
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
                if file.exists() and (values := _measured(file)) != before:
                    before = values
                    found(values)
        if process.returncode:
            raise InputError(f"the training benchmark failed: {of_command(process.returncode, ''.join(lines))}")
        if (values := _measured(file)) != before:
            found(values)


def _measured(file: Path) -> dict[str, Any]:
    """The measurements of `--json`, without its description of the model and the versions."""
    values = json.loads(file.read_text())
    return {key: value for key, value in values.items() if key not in ("config", "versions", "date", "command", "device")}
