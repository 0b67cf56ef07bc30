"""The options of `train.base`."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError
from svdjax.presets import PRESETS
from svdjax.runtime import cli
from train.options import shared
from train.steps.pretraining import STAGES

# What the other stages than this one have no use for, and its defaults.
ONLY = {
    "unet": {"dropout": 0.1, "log_sigma": (0.7, 1.6), "noises": 1, "no_remat": False},
    "vae": {"divergence": 1e-3, "equivariance": 0.0},
}


@dataclass(frozen=True, kw_only=True)
class Options(shared.Options):
    """A parsed command line."""

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
        if self.cache_latents is not None and not (self.stage == "unet" and self.freeze_encoder):
            raise InputError("--cache-latents: expected it with unet and --freeze-encoder, whose encoders stay as they are")
        super().__post_init__()
        if self.model is not None and self.preset is not None and self.stage != "unet":
            raise InputError(f"--model and --preset with {self.stage} both say what to begin with: expected one of them")
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
            raise InputError(f"--log-sigma is {mean:g} {std:g}, expected a number and a positive one")


def parse(argv: list[str] | None) -> Options:
    """The command line as options.

    Raises:
        InputError: an option that is unknown, missing, or out of its range.
    """
    p = cli.Parser(
        prog="python -m train.base",
        description="Train Stable Video Diffusion from scratch: the VAE, the image encoder, the UNet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument(
        "stage",
        choices=STAGES,
        help="what to train; image-encoder learns the facts of the world's frames, unet takes the other networks of --model",
    )
    p.add_argument(
        "--model", type=Path, metavar="DIR", help="a checkpoint to begin with, such as the OUT/model of the VAE's run"
    )
    p.add_argument(
        "--preset",
        choices=PRESETS,
        help="shapes to begin with at random (None: tiny, or --model's); unet with --model: its attention grows to these",
    )
    how = shared.add(
        p, steps=10_000, learning_rate=3e-3, rate="of Muon and AdamW, which rises at first and then falls to 0 as a cosine"
    )["training"]
    how.add_argument("--warmup", type=int, default=200, metavar="N", help="steps until the learning rate is reached")
    how.add_argument(
        "--average", type=float, default=0.999, metavar="X", help="decay of the mean of the weights, which is kept"
    )
    how.add_argument("--dropout", type=float, metavar="X", help="share of clips not told their first frame (unet)")
    how.add_argument(
        "--log-sigma",
        type=float,
        nargs=2,
        metavar=("MEAN", "STD"),
        help="ln sigma is normal with these (unet)",
    )
    how.add_argument("--noises", type=int, metavar="N", help="noises that each clip is trained on at once (unet)")
    how.add_argument(
        "--crop", type=int, metavar="PIXELS", help="train on squares of this side where the clip moves (vae; None: whole clips)"
    )
    how.add_argument(
        "--divergence",
        type=float,
        metavar="X",
        help="weight of the latents' divergence from a normal distribution: more of it makes them noisier (vae)",
    )
    how.add_argument(
        "--equivariance",
        type=float,
        metavar="X",
        help="share of clips whose latents are moved by a part of a cell, and must show the clip moved as far: latents then "
        "move as things do (vae)",
    )
    how.add_argument(
        "--freeze-encoder",
        action="store_true",
        help="vae: finish the decoder alone; latents, and UNets that make them, stay. unet: the image encoder stays",
    )
    p.set_defaults(**ONLY["unet"], **ONLY["vae"])
    given = vars(p.parse_args(argv))
    return Options(**{**given, "log_sigma": tuple(given["log_sigma"])})
