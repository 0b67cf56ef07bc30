"""Console scripts of the commands in this package. They import nothing slow before Ctrl-C gives one line."""

from __future__ import annotations

from svdjax.runtime.startup import run_command


def interpolate() -> None:
    run_command("sample.interpolate")


def animate() -> None:
    run_command("sample.animate")


def evaluate() -> None:
    run_command("sample.evaluate")


def benchmark() -> None:
    run_command("sample.benchmark")


def app() -> None:
    run_command("sample.app")


def figures() -> None:
    run_command("sample.figures")


def fetch_clips() -> None:
    run_command("sample.fetch_clips")
