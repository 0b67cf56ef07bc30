"""The options of `sample.evaluate`, and what is checked of them before anything long."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sample import console, sampling_options
from sample.evaluation import clip_folders, keyframe_pairs
from svdjax import embedded_model
from svdjax.checkpoints import checkpoint, delta
from svdjax.config import SVDConfig
from svdjax.data import world_clips
from svdjax.data.sources import DataSettings, check_apart
from svdjax.errors import InputError
from svdjax.media import fit
from svdjax.models.backward import QUERIES
from svdjax.runtime import cli
from svdjax.sampling import methods
from svdjax.sampling.settings import Settings

CROSS_FADE = "cross-fade"
RECONSTRUCTION = "reconstruction"  # the true frames, encoded and decoded: what no method with this VAE can surpass
METHODS = (*methods.METHODS, CROSS_FADE, RECONSTRUCTION)


@dataclass(frozen=True)
class Request:
    """A checked command line.

    Attributes:
        models: the checkpoint of each method that samples, and backward weights besides it.
        methods: in the order asked for.
        config: of the model.
        settings: of every method's sampler; the seed of pair i is the run's plus i.
        size: (width, height).
        count: of pairs.
        data: where they are from, None for the embedded world.
        batch_size: pairs sampled together.
        workers: processes that compute figures.
        dtype: of the computation.
        out: the folder of the results.
    """

    models: dict[str, tuple[Path, Path | None]]
    methods: tuple[str, ...]
    config: SVDConfig
    settings: Settings
    size: tuple[int, int]
    count: int
    data: DataSettings | None
    batch_size: int
    workers: int
    dtype: str
    out: Path

    @property
    def shape(self) -> clip_folders.Shape:
        """Of every clip."""
        return self.settings.num_frames, self.size[1], self.size[0]


def check(argv: list[str] | None) -> Request:
    """Parse and check a command line; nothing long, nothing written.

    Raises:
        InputError: anything wrong with it.
    """
    p = cli.Parser(prog="python -m sample.evaluate", description="Measure how methods fill in between keyframes.")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results; frames there are used again")
    p.add_argument("--pairs", type=int, default=200, metavar="N", help="of keyframes (%(default)s)")
    p.add_argument("--methods", default=",".join(METHODS), metavar="A,B,...", help="of: %(default)s")
    p.add_argument(
        "--data",
        type=world_clips.data_folder,
        metavar="DIR",
        help="folder of clips to take keyframes from (the embedded world)",
    )
    p.add_argument("--stride", type=int, default=1, metavar="N", help="take every Nth frame of --data")
    sampling_options.add_model(p)
    p.add_argument(
        "--backward",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="backward weights; twice for those with and without rotated maps",
    )
    sampling_options.add_sampling(p)
    sampling_options.add_recurrence(p)
    p.add_argument("--batch-size", type=int, metavar="B", help="pairs sampled together (8 of the world, else 1)")
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes that compute figures (%(default)s)")
    args = p.parse_args(argv)
    if args.data is not None and world_clips.is_meant(args.data):
        args.data = None  # whose test clips are measured on, not those that commands of training read by this name
    if args.batch_size is None:
        args.batch_size = 8 if args.data is None else 1
    for name, least in (("pairs", 2), ("batch_size", 1), ("workers", 1), ("stride", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least {least}")
    sampling_options.check_decode_chunk(args)
    if args.decode_chunk is not None:
        raise InputError("--decode-chunk: changes the picture, and is not evaluated; leave it out")
    if args.data is None and (args.stride != 1 or args.fit != "crop"):
        raise InputError("--stride and --fit are of the clips of --data: the embedded world's are taken as they are")
    asked = tuple(dict.fromkeys(args.methods.split(",")))
    for name in asked:
        if name not in METHODS:
            raise InputError(f"--methods: {name!r} is unknown, expected some of {','.join(METHODS)}")
    if importlib.util.find_spec("skimage") is None:
        raise InputError('scikit-image is not installed, which computes SSIM and HOG: pip install -e ".[evaluate]"')
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out}: is a file, expected a folder")
    parent = args.out.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{args.out}: there is no folder {parent}")
    if not os.access(args.out if args.out.exists() else parent, os.W_OK | os.X_OK):
        raise InputError(f"{args.out}: can't be written")
    if args.data is not None:
        check_apart(args.out, args.data)
    models = {name: _model(args, name) for name in asked if name != CROSS_FADE}
    path, _ = next(iter(models.values()), (args.model or embedded_model.checkpoint(), None))
    config = checkpoint.read_info(path).config
    settings = sampling_options.sampling_settings(args, config, **sampling_options.recurrence_settings(args))
    if settings.num_frames < 3:
        raise InputError(f"--num-frames is {settings.num_frames}, expected at least 3: frames between keyframes are measured")
    size = fit.parse_size(args.size) if args.size else config.default_size
    fit.check_size(*size, config.size_multiple)
    keyframe_pairs.check_world(settings.num_frames, size, args.data)
    data = None
    if args.data is not None:
        data = DataSettings(args.data, settings.num_frames, size, args.stride, args.fit)
    dtype = console.compute_dtype(args.dtype)
    return Request(models, asked, config, settings, size, args.pairs, data, args.batch_size, args.workers, dtype, args.out)


def _model(args: Any, method: str) -> tuple[Path, Path | None]:
    """The checkpoint and the backward weights that a method takes: those of `--backward`, or else the checkpoint's own."""
    path = args.model or embedded_model.checkpoint(method)
    info = checkpoint.read_info(path)
    if method not in methods.FINE_TUNED:
        return path, None
    given = [folder for folder in args.backward if _fits(delta.read_backward_info(folder)["trained"], method)]
    kind = "without" if method == "no-rotation" else "with"
    if len(given) > 1:
        raise InputError(f"--backward: {given[0]} and {given[1]} were both trained {kind} rotated maps, expected one of a kind")
    if not given and not _fits([] if info.backward is None else info.backward["trained"], method):
        raise InputError(
            f"--methods: {method} needs backward weights trained {kind} rotated maps, which neither {path} nor --backward has"
        )
    return path, given[0] if given else None


def _fits(trained: Sequence[str], method: str) -> bool:
    """Whether backward weights of which these kinds of tensors were trained are a fine-tuned method's."""
    return bool(trained) and bool(set(trained) & set(QUERIES)) is (method == "no-rotation")
