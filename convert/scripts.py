"""Console scripts of the commands in this package. They import nothing slow before Ctrl-C gives one line."""

from __future__ import annotations

from svdjax.runtime.startup import run_command


def svd_to_flax() -> None:
    run_command("convert.svd_to_flax")


def flax_to_svd() -> None:
    run_command("convert.flax_to_svd")
