"""The options that commands of training share, and what is checked of them before anything is loaded."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from svdjax.data.world_clips import CLIPS, NAME, data_folder, is_meant
from svdjax.errors import InputError
from svdjax.media.fit import FITS
from svdjax.parallel.mesh import DEFAULT, parse_mesh

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A parsed command line; None is a default that depends on the model, the mesh or the device."""

    data: Path
    out: Path
    mesh: str
    steps: int
    batch_size: int | None
    accumulate: int
    num_frames: int | None
    size: str | None
    fit: str
    stride: int
    min_motion: float
    hold_out: int | None
    clips: int | None
    cache_latents: Path | None
    learning_rate: float
    seed: int
    no_remat: bool
    dtype: str | None
    workers: int
    save_every: int
    keep: int
    resume: bool
    validate_every: int | None
    validate_steps: int
    coordinator: str | None
    num_processes: int | None
    process_id: int | None

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("seed", 0),
            ("workers", 0),
            ("save_every", 1),
            ("keep", 1),
            ("clips", 1),
            ("validate_every", 1),
            ("validate_steps", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
        if self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}, expected at most {2**32 - 1}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate is {self.learning_rate}, expected a positive number")
        if self.validate_every and self.hold_out == 0:
            raise InputError("--validate-every makes clips of a held-out source, --hold-out is 0: expected at least 1")
        if self.clips and self.clips > CLIPS["train"]:
            raise InputError(f"--clips is {self.clips}, expected at most {CLIPS['train']}")
        if self.clips and not is_meant(self.data):
            raise InputError(f"--clips {self.clips} with --data {self.data}: expected it with {NAME}, whose first N it means")
        if self.cache_latents is not None and is_meant(self.data) and not self.clips:
            raise InputError(f"--cache-latents with --data {NAME}: a million clips, expected --clips N or a folder")
        parse_mesh(self.mesh)

    def as_text(self) -> dict[str, str]:
        """All options, to be kept with what came of them."""
        return {name: str(value) for name, value in vars(self).items()}

    @property
    def held_out(self) -> int:
        """Sources kept out of training: as said, or one if there is validation."""
        return (1 if self.validate_every else 0) if self.hold_out is None else self.hold_out


def add(p: argparse.ArgumentParser, *, steps: int, learning_rate: float, rate: str) -> dict[str, argparse._ArgumentGroup]:
    """Add the shared options to a parser; the groups by name, for more.

    Args:
        steps, learning_rate: defaults.
        rate: what has the learning rate, and what becomes of it.
    """
    needed = p.add_argument_group("what")
    needed.add_argument(
        "--data", type=data_folder, metavar="DIR", required=True, help="folder of videos and of folders of frames, or: world"
    )
    needed.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the run")
    needed.add_argument("--resume", action="store_true", help="go on with the run in OUT, if there is one")
    clips = p.add_argument_group("clips")
    clips.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip (None: the model's)")
    clips.add_argument("--size", metavar="WxH", help="of the clips (None: the model's)")
    clips.add_argument("--fit", choices=FITS, default="crop", help="how videos of another shape are fitted")
    clips.add_argument("--stride", type=int, default=1, metavar="N", help="take every Nth frame; the paper's doubled rate is 2")
    clips.add_argument("--min-motion", type=float, default=0.0, metavar="X", help="leave out clips that move less (data.csv)")
    clips.add_argument("--hold-out", type=int, metavar="N", help="keep the last N videos out (None: 1 if validating)")
    clips.add_argument("--clips", type=int, metavar="N", help="of the world, the first N alone (None: a million)")
    clips.add_argument("--cache-latents", type=Path, metavar="DIR", help="keep what encoders that stay make of frames")
    clips.add_argument("--workers", type=int, default=2, metavar="N", help="processes that read videos ahead")
    how = p.add_argument_group("training")
    how.add_argument("--steps", type=int, default=steps, metavar="N", help="in all")
    how.add_argument("--batch-size", type=int, metavar="B", help="clips of a step over all devices (None: one a device)")
    how.add_argument("--accumulate", type=int, default=1, metavar="N", help="do a step in N parts, to need less memory")
    how.add_argument("--learning-rate", type=float, default=learning_rate, metavar="X", help=rate)
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of clips, sigmas and noises")
    how.add_argument("--dtype", choices=DTYPES, help="of frozen weights and computation (None: bfloat16, float32 on a CPU)")
    how.add_argument("--no-remat", action="store_true", help="keep all activations: faster by about a fifth, much more memory")
    kept = p.add_argument_group("what is kept")
    kept.add_argument("--save-every", type=int, default=500, metavar="K", help="steps between checkpoints")
    kept.add_argument("--keep", type=int, default=2, metavar="K", help="latest checkpoints that are kept, besides the best")
    kept.add_argument("--validate-every", type=int, metavar="K", help="steps between clips between held-out frames (None: no)")
    kept.add_argument("--validate-steps", type=int, default=25, metavar="N", help="Euler steps of such a clip")
    where = p.add_argument_group("devices")
    where.add_argument("--mesh", default=DEFAULT, metavar="AXES", help="such as data=2,fsdp=4; -1 is what is left")
    where.add_argument("--coordinator", metavar="HOST:PORT", help="several hosts without Slurm: process 0's address")
    where.add_argument("--num-processes", type=int, metavar="N", help="the same: how many")
    where.add_argument("--process-id", type=int, metavar="I", help="the same: which this is")
    return {"what": needed, "clips": clips, "training": how, "kept": kept}
