"""The options of `train.base`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError
from svdjax.presets import PRESETS
from svdjax.runtime import cli, paths
from train.options import shared
from train.options.shared import RunOptions


@dataclass(frozen=True, kw_only=True)
class BaseOptions(RunOptions):
    """A parsed command line of `train.base`.

    Raises:
        InputError: a value out of its range, or options that contradict each other.
    """

    stage: str
    model: Path | None
    preset: str | None
    warmup: int
    average: float
    dropout: float
    log_sigma: tuple[float, float]
    noises: int
    crop: int | None
    divergence: float
    equivariance: float
    freeze_encoder: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noises < 1:
            raise InputError(f"--noises is {self.noises}, expected at least 1")
        if self.warmup < 0:
            raise InputError(f"--warmup is {self.warmup}, expected at least 0")
        for name in ("average", "dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"--{name} is {value}, expected at least 0 and less than 1")
        if not 0 <= self.divergence < math.inf:
            raise InputError(f"--divergence is {self.divergence:g}, expected at least 0")
        if not 0 <= self.equivariance <= 1:
            raise InputError(f"--equivariance is {self.equivariance:g}, expected 0 to 1")
        mean, std = self.log_sigma
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise InputError(f"--log-sigma is {mean:g} {std:g}, expected a number and a positive number")


def parse(argv: list[str] | None, own_options: Mapping[str, Collection[str]]) -> BaseOptions:
    """Parse the command line.

    Args:
        argv: the arguments; None is those of the process.
        own_options: maps each stage to the options that only this stage uses.

    Raises:
        InputError: an option that is unknown, missing, out of its range, or of another stage.
    """
    p = _parser(own_options)
    values = vars(p.parse_args(argv))
    options = BaseOptions(**{**values, "log_sigma": tuple(values["log_sigma"])})
    for stage, names in own_options.items():
        for name in names:
            if options.stage != stage and getattr(options, name) != p.get_default(name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} with {options.stage}: expected it with {stage}, the only stage that uses it")
    return options


def _parser(stages: Collection[str]) -> cli.Parser:
    p = cli.Parser(
        prog="python -m train.base",
        description="Train Stable Video Diffusion from scratch: the VAE, the image encoder, the UNet.",
    )
    p.add_argument(
        "stage",
        choices=stages,
        help="what to train; image-encoder needs --data world, unet takes the VAE and the image encoder of --model",
    )
    p.add_argument(
        "--model",
        type=paths.path,
        metavar="DIR",
        help="checkpoint to start from, such as OUT/model of the VAE's run, or: embedded (default: a new random model)",
    )
    p.add_argument(
        "--preset",
        choices=PRESETS,
        help="shapes of a new random model (default: tiny); with unet and --model: adds attention to the UNet",
    )
    training = shared.add(
        p, steps=10_000, learning_rate=3e-3, rate="learning rate of Muon and AdamW: linear warmup, then cosine decay to 0"
    )["training"]
    training.add_argument("--warmup", type=int, default=200, metavar="N", help="steps of linear warmup (default: %(default)s)")
    training.add_argument(
        "--average",
        type=float,
        default=0.999,
        metavar="X",
        help="decay of the exponential moving average (EMA) of the weights, which is exported (default: %(default)s)",
    )
    training.add_argument(
        "--dropout",
        type=float,
        default=0.1,
        metavar="X",
        help="unet: fraction of clips without image conditioning (default: %(default)s)",
    )
    training.add_argument(
        "--log-sigma",
        type=float,
        nargs=2,
        default=(0.7, 1.6),
        metavar=("MEAN", "STD"),
        help="unet: mean and standard deviation of the normal distribution of ln sigma (default: 0.7 1.6)",
    )
    training.add_argument(
        "--noises", type=int, default=1, metavar="N", help="unet: noise samples per clip and step (default: %(default)s)"
    )
    training.add_argument(
        "--crop",
        type=int,
        metavar="PIXELS",
        help="vae: train on square crops of this side around motion (default: whole clips)",
    )
    training.add_argument(
        "--divergence",
        type=float,
        default=1e-3,
        metavar="X",
        help="vae: weight of the latents' KL divergence from N(0, 1); a larger one makes them noisier (default: %(default)s)",
    )
    training.add_argument(
        "--equivariance",
        type=float,
        default=0.0,
        metavar="X",
        help="vae: fraction of clips with latents shifted by less than one latent, which must decode to the shifted clip; "
        "then latents move as objects do (default: %(default)s)",
    )
    training.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="vae: train only the decoder; latents, and UNets trained on them, stay valid. unet: freeze the image encoder",
    )
    return p
