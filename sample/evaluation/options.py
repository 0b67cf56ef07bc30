"""Command-line options of `sample.evaluate`, checked before any long work."""

from __future__ import annotations

import argparse
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from sample import sampling_options
from sample.evaluation import clip_folders, keyframe_pairs
from sample.evaluation.method_models import MethodModel, choose_model
from svdjax.config import SVDConfig
from svdjax.data import world_clips
from svdjax.data.sources import DataSettings, check_outside_data
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import compute_dtype
from svdjax.runtime.output_paths import check_parent, check_writable
from svdjax.sampling import methods
from svdjax.sampling.settings import Settings

CROSS_FADE = "cross-fade"
RECONSTRUCTION = "reconstruction"  # the true frames encoded and decoded: an upper bound for every method with this VAE
METHODS = (*methods.METHODS, CROSS_FADE, RECONSTRUCTION)
WORLD_BATCH_SIZE = 8  # pairs of the embedded world sampled together by default; other pairs are sampled one by one


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A checked command line.

    Attributes:
        methods: in the requested order.
        models: the model of each method except the cross-fade.
        config: configuration of the models.
        settings: sampler settings for every method; pair i uses their seed plus i.
        size: (width, height) of the clips.
        count: number of pairs.
        data: the folder of clips, None for the embedded world.
        batch_size: pairs sampled together.
        workers: processes that compute metrics.
        dtype: dtype of the computation.
        memory: bytes of the device that the run may use; None without a limit.
        kernels: see `svdjax.kernels.choice`.
        out: folder of the results.
    """

    methods: tuple[str, ...]
    models: dict[str, MethodModel]
    config: SVDConfig
    settings: Settings
    size: tuple[int, int]
    count: int
    data: DataSettings | None
    batch_size: int
    workers: int
    dtype: str
    memory: int | None
    kernels: str
    out: Path

    @property
    def shape(self) -> clip_folders.Shape:
        """(frames, height, width) of every clip."""
        return self.settings.num_frames, self.size[1], self.size[0]


def parser() -> cli.Parser:
    p = cli.Parser(
        prog="python -m sample.evaluate", description="Compare methods with the true frames between pairs of keyframes."
    )
    p.add_argument(
        "--out",
        type=paths.path,
        required=True,
        metavar="DIR",
        help="folder of the results; frames from an earlier run are reused",
    )
    p.add_argument("--pairs", type=int, default=200, metavar="N", help="number of keyframe pairs (default: %(default)s)")
    p.add_argument("--methods", default=",".join(METHODS), metavar="A,B,...", help="methods to compare (default: %(default)s)")
    p.add_argument(
        "--data",
        type=world_clips.data_folder,
        metavar="DIR",
        help="folder with videos or folders of frames to take clips from (default: test clips of the embedded world)",
    )
    p.add_argument("--stride", type=int, default=1, metavar="N", help="use every Nth frame of --data (default: %(default)s)")
    sampling_options.add_model(p)
    p.add_argument(
        "--backward",
        type=paths.path,
        metavar="DIR",
        action="append",
        default=[],
        help="backward weights; give it twice for weights trained with and without rotated maps (default: the model's)",
    )
    sampling_options.add_sampling(p, evaluation=True)
    sampling_options.add_recurrence(p)
    p.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help=f"pairs sampled together (default: {WORLD_BATCH_SIZE} for the embedded world, else 1)",
    )
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes that compute metrics (default: %(default)s)")
    return p


def parse(argv: list[str] | None) -> EvaluationRequest:
    """Parse and check a command line. Quick; writes nothing.

    Raises:
        InputError: a user error.
    """
    args = parser().parse_args(argv)
    # `--data world` means the embedded world, as in training, but here its test clips
    folder = None if args.data is None or world_clips.is_world(args.data) else args.data
    batch_size = args.batch_size if args.batch_size is not None else WORLD_BATCH_SIZE if folder is None else 1
    check_numbers(args, batch_size)
    check_clip_options(args, folder)
    names = parse_methods(args.methods)
    memory_option.take_share(args.memory)
    check_packages()
    check_out(args.out, folder)
    models = {name: choose_model(name, args.model, args.backward) for name in names if name != CROSS_FADE}
    source = next(iter(models.values())).source if models else find_model(args.model)
    settings = sampling_options.sampling_settings(args, source, **sampling_options.recurrence_settings(args, source))
    if settings.num_frames < 3:
        raise InputError(f"--num-frames is {settings.num_frames}, expected at least 3: frames between keyframes are measured")
    size = fit.parse_size(args.size) if args.size else source.config.default_size
    fit.check_size(*size, source.config.size_multiple)
    return EvaluationRequest(
        methods=names,
        models=models,
        config=source.config,
        settings=settings,
        size=size,
        count=args.pairs,
        data=data_settings(args, folder, settings.num_frames, size),
        batch_size=batch_size,
        workers=args.workers,
        dtype=compute_dtype(args.dtype),
        memory=memory_option.start(args.memory),
        kernels=args.kernels,
        out=args.out,
    )


def check_numbers(args: argparse.Namespace, batch_size: int) -> None:
    """Refuse numbers below their minimum."""
    for option, value, least in (
        ("--pairs", args.pairs, 2),
        ("--batch-size", batch_size, 1),
        ("--workers", args.workers, 1),
        ("--stride", args.stride, 1),
    ):
        if value < least:
            raise InputError(f"{option} is {value}, expected at least {least}")


def check_clip_options(args: argparse.Namespace, folder: Path | None) -> None:
    """Refuse options that don't apply to the evaluated clips."""
    if args.decode_chunk is not None:
        raise InputError("--decode-chunk: changes the picture and is not evaluated; leave it out")
    if folder is None and (args.stride != 1 or args.fit != "crop"):
        raise InputError("--stride and --fit: apply only to the clips of --data, not to the embedded world; leave them out")


def parse_methods(text: str) -> tuple[str, ...]:
    """The methods of `--methods`, without duplicates."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: {name!r} is unknown, expected some of {','.join(METHODS)}")
    return names


def check_packages() -> None:
    """Refuse an installation without the packages of the `evaluate` extra."""
    if importlib.util.find_spec("skimage") is None:
        raise InputError('scikit-image is not installed, but SSIM needs it: pip install -e ".[evaluate]"')


def check_out(out: Path, folder: Path | None) -> None:
    """Refuse a folder of results that can't be written, or that lies in the folder of clips."""
    if out.is_symlink() and not out.exists():
        raise InputError(f"--out {out}: is a link to {os.readlink(out)}, which doesn't exist")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder")
    check_parent(out)
    check_writable(out if out.exists() else out.absolute().parent, str(out))
    if folder is not None:
        check_outside_data(out, folder)


def data_settings(args: argparse.Namespace, folder: Path | None, num_frames: int, size: tuple[int, int]) -> DataSettings | None:
    """Settings of the clips of a folder; None for the embedded world, after a check of the number and size of frames."""
    if folder is None:
        keyframe_pairs.check_world_shape(num_frames, size)
        return None
    return DataSettings(folder=folder, num_frames=num_frames, size=size, stride=args.stride, fit=args.fit)
