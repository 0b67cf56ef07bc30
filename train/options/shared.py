"""The options shared by both training commands, validated before anything is loaded."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from svdjax.data.world_clips import CLIPS, NAME, data_folder, is_world
from svdjax.errors import InputError
from svdjax.media.fit import FITS
from svdjax.parallel.mesh import DEFAULT, parse_mesh
from svdjax.runtime import paths
from svdjax.runtime.dtypes import DTYPES

_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "seed": 0,
    "workers": 0,
    "save_every": 1,
    "keep": 1,
    "clips": 1,
    "validate_every": 1,
    "validate_steps": 1,
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """A parsed command line. None stands for a default that depends on the model, the mesh or the device.

    Raises:
        InputError: a value out of its range, or options that contradict each other.
    """

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
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
        if self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}, expected at most {2**32 - 1}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate is {self.learning_rate}, expected a positive number")
        if self.validate_every and self.hold_out == 0:
            raise InputError("--validate-every needs a held-out video: --hold-out is 0, expected at least 1")
        if self.clips and self.clips > CLIPS["train"]:
            raise InputError(f"--clips is {self.clips}, expected at most {CLIPS['train']}")
        if self.clips and not is_world(self.data):
            raise InputError(f"--clips {self.clips} with --data {self.data}: expected it with --data {NAME}")
        if self.cache_latents is not None and is_world(self.data) and not self.clips:
            raise InputError(f"--cache-latents with --data {NAME}: it has a million clips, expected --clips N or a folder")
        parse_mesh(self.mesh)

    def as_text(self) -> dict[str, str]:
        """All options, stored with the checkpoints of the run."""
        return {name: str(value) for name, value in vars(self).items()}

    @property
    def held_out(self) -> int:
        """Number of sources not used for training: `--hold-out`; by default 1 with validation and 0 without."""
        return (1 if self.validate_every else 0) if self.hold_out is None else self.hold_out


def add(p: argparse.ArgumentParser, *, steps: int, learning_rate: float, rate: str) -> dict[str, argparse._ArgumentGroup]:
    """Add the shared options to a parser.

    Args:
        steps, learning_rate: defaults.
        rate: help text of `--learning-rate`.

    Returns:
        The option groups `training`, `output` and `devices`, for more options.
    """
    run = p.add_argument_group("run")
    run.add_argument(
        "--data", type=data_folder, metavar="DIR", required=True, help="folder with videos and folders of frames, or: world"
    )
    run.add_argument("--out", type=paths.path, metavar="DIR", required=True, help="folder of the run")
    run.add_argument("--resume", action="store_true", help="continue the run in OUT, if there is one")
    clips = p.add_argument_group("clips")
    clips.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip (default: the model's)")
    clips.add_argument("--size", metavar="WxH", help="size of the clips in pixels (default: the model's)")
    clips.add_argument("--fit", choices=FITS, default="crop", help="how to fit videos of another shape (default: %(default)s)")
    clips.add_argument(
        "--stride",
        type=int,
        default=1,
        metavar="N",
        help="use every Nth frame; the paper's doubled speed is 2 (default: %(default)s)",
    )
    clips.add_argument(
        "--min-motion",
        type=float,
        default=0.0,
        metavar="X",
        help="skip clips with less motion, in levels of 255 (see data.csv; default: %(default)s)",
    )
    clips.add_argument(
        "--hold-out",
        type=int,
        metavar="N",
        help="do not train on the last N videos or folders of frames (default: 1 with --validate-every, else 0)",
    )
    clips.add_argument("--clips", type=int, metavar="N", help="use only the first N clips of --data world (default: a million)")
    clips.add_argument(
        "--cache-latents", type=paths.path, metavar="DIR", help="cache the frozen encoders' outputs in this folder"
    )
    clips.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that read videos ahead (default: %(default)s)"
    )
    training = p.add_argument_group("training")
    training.add_argument(
        "--steps",
        type=int,
        default=steps,
        metavar="N",
        help="total steps, including those before --resume (default: %(default)s)",
    )
    training.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help="clips per step over all devices (default: --accumulate times the sizes of the mesh axes data and fsdp)",
    )
    training.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="compute a step in N parts, to save memory (default: %(default)s)",
    )
    training.add_argument(
        "--learning-rate", type=float, default=learning_rate, metavar="X", help=f"{rate} (default: %(default)s)"
    )
    training.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of clips, noise levels and noise (default: %(default)s)"
    )
    training.add_argument(
        "--dtype", choices=DTYPES, help="dtype of frozen weights and computation (default: bfloat16; float32 on a CPU)"
    )
    training.add_argument(
        "--no-remat", action="store_true", help="keep all activations: about a fifth faster, but much more memory"
    )
    output = p.add_argument_group("output")
    output.add_argument(
        "--save-every", type=int, default=500, metavar="K", help="steps between checkpoints (default: %(default)s)"
    )
    output.add_argument(
        "--keep", type=int, default=2, metavar="K", help="latest checkpoints to keep, besides the best (default: %(default)s)"
    )
    output.add_argument(
        "--validate-every", type=int, metavar="K", help="steps between validation clips (default: no validation)"
    )
    output.add_argument(
        "--validate-steps", type=int, default=25, metavar="N", help="Euler steps of a validation clip (default: %(default)s)"
    )
    devices = p.add_argument_group("devices")
    devices.add_argument(
        "--mesh",
        default=DEFAULT,
        metavar="AXES",
        help="device mesh, such as data=2,fsdp=4; -1 is all remaining devices (default: %(default)s)",
    )
    devices.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, for several hosts without Slurm")
    devices.add_argument("--num-processes", type=int, metavar="N", help="number of processes, with --coordinator")
    devices.add_argument("--process-id", type=int, metavar="I", help="number of this process from 0, with --coordinator")
    return {"training": training, "output": output, "devices": devices}
