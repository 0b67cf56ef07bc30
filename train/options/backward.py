"""The options of `train.backward`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from svdjax.runtime import cli
from train.options import shared
from train.options.shared import DTYPES

PAPER_STEPS = 15_000


@dataclass(frozen=True, kw_only=True)
class Options(shared.Options):
    """A parsed command line."""

    model: Path
    init: Path | None
    no_rotation: bool
    export_dtype: str


def parse(argv: list[str] | None) -> Options:
    """The command line as options.

    Raises:
        InputError: an option that is unknown, missing, or out of its range.
    """
    p = cli.Parser(
        prog="python -m train.backward",
        description="Teach the backward direction its temporal values and output projections (Generative Inbetweening).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("--model", type=Path, metavar="DIR", required=True, help="from python -m convert.svd_to_flax")
    groups = shared.add(p, steps=PAPER_STEPS, learning_rate=1e-4, rate="of AdamW, constant")
    how = groups["training"]
    how.add_argument("--init", type=Path, metavar="DIR", help="start from another run's OUT/backward")
    how.add_argument(
        "--no-rotation", action="store_true", help="the paper's ablation: own maps, queries and keys are trained too"
    )
    groups["kept"].add_argument("--export-dtype", choices=DTYPES, default="float16", help="of the differences in OUT/backward")
    return Options(**vars(p.parse_args(argv)))
