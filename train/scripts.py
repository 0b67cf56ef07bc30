"""Console scripts of the commands in this package. They import nothing slow before Ctrl-C gives one line."""

from __future__ import annotations

from svdjax.runtime.startup import run_command


def backward() -> None:
    run_command("train.backward")


def base() -> None:
    run_command("train.base")
