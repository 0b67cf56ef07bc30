"""A training step of the backward fine-tune, measured by `sample.benchmark --train` in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sample.benchmarking.workloads import PRESETS
from sample.gpu_report.channel import PYTORCH, Reporter, Request, missing
from svdjax.errors import InputError

FRAMES = 14  # of the paper's training clips
OFFICIAL_BYTES = 120e9  # PyTorch's step at full size next to ours; the official code asks for a GPU of 80 GB
SMALLER = (576, 320)  # size of the comparison on other GPUs, (width, height)


def measure(request: Request, reporter: Reporter) -> None:
    """Report our step at full size; compared with PyTorch's at full size where that fits, else at a smaller size."""
    compared = not missing(PYTORCH)
    if not compared:
        reporter.note(f"no comparison: {' and '.join(missing(PYTORCH))} not installed")
    fits = not request.gpu or (request.memory_bytes or 0) >= OFFICIAL_BYTES
    reporter.progress("compiling and timing" + (", PyTorch's step alternately" if compared and fits else ""))
    reporter.results(_benchmark(request, request.size, against=compared and fits))
    if compared and not fits:
        reporter.progress(f"timing PyTorch's step and ours alternately at {SMALLER[0]}x{SMALLER[1]}")
        with reporter.attempt("comparison with PyTorch"):
            reporter.results({"smaller": _benchmark(request, SMALLER, against=True)})


def _benchmark(request: Request, size: tuple[int, int], *, against: bool) -> dict[str, Any]:
    """The measurements of `--json`, without its description of the model and the versions."""
    model = "--preset" if request.model in PRESETS else "--model"
    frames = min(FRAMES, request.num_frames)
    with tempfile.TemporaryDirectory(prefix="svdjax-report-") as folder:
        file = Path(folder) / "train.json"
        command = ["--train", model, request.model, "--size", f"{size[0]}x{size[1]}", "--num-frames", str(frames)]
        command += ["--dtype", request.dtype, "--batch-size", "1", "--repeats", str(request.repeats), "--json", str(file)]
        command += ["--against", "diffusers"] if against else []
        done = subprocess.run(
            [sys.executable, "-P", "-m", "sample.benchmark", *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        sys.stderr.write(done.stderr)
        if done.returncode:
            raise InputError(f"the training benchmark failed: {done.stderr.strip().rpartition(chr(10))[2]}")
        values = json.loads(file.read_text())
    return {key: value for key, value in values.items() if key not in ("config", "versions", "date", "command", "device")}
