"""The options of `train.backward`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import DTYPES
from train.options import shared
from train.options.shared import RunOptions

PAPER_STEPS = 15_000


@dataclass(frozen=True, kw_only=True)
class BackwardOptions(RunOptions):
    """A parsed command line of `train.backward`."""

    model: Path
    init: Path | None
    no_rotation: bool
    export_dtype: str
    memory: float | None


def parse(argv: list[str] | None) -> BackwardOptions:
    """Parse the command line.

    Raises:
        InputError: an option that is unknown, missing, or out of its range.
    """
    p = cli.Parser(
        prog="python -m train.backward",
        description="Fine-tune the backward direction's temporal value and output projections (Generative Inbetweening).",
    )
    p.add_argument(
        "--model",
        type=paths.path,
        metavar="DIR",
        required=True,
        help="a checkpoint of convert.svd_to_flax or train.base, or: embedded",
    )
    groups = shared.add(p, steps=PAPER_STEPS, learning_rate=1e-4, rate="learning rate of AdamW, constant")
    groups["training"].add_argument("--init", type=paths.path, metavar="DIR", help="start from the OUT/backward of another run")
    groups["training"].add_argument(
        "--no-rotation",
        action="store_true",
        help="ablation of the paper: train without rotated attention maps; queries and keys are trained too",
    )
    groups["output"].add_argument(
        "--export-dtype",
        choices=DTYPES,
        default="float16",
        help="dtype of the weight differences in OUT/backward (default: %(default)s)",
    )
    memory_option.add_memory(groups["devices"])
    return BackwardOptions(**vars(p.parse_args(argv)))
