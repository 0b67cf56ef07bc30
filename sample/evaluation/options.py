"""Command-line options of `sample.evaluate`, checked before any long work."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh

from sample import planned_model, sampling_options
from sample.batches import options as batch_options
from sample.batches.claims import Claims
from sample.evaluation import clip_folders, figure_options, keyframe_pairs, run_folder
from sample.evaluation.method_models import MethodModel, choose_model
from sample.evaluation.request import DEFAULT_METHODS, METHODS, RECONSTRUCTION, RIFE, WITHOUT_MODEL, EvaluationRequest
from sample.other_methods import given_clips, rife
from sample.video_pairs import options as pair_options
from svdjax.config import SVDConfig
from svdjax.data.sources import DataSettings, check_outside_data
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.media import fit
from svdjax.parallel.sampling_mesh import clips_together
from svdjax.runtime import cli, memory_option, paths
from svdjax.runtime.dtypes import compute_dtype
from svdjax.runtime.output_paths import check_parent, check_writable
from svdjax.sampling import methods as sampling_methods
from svdjax.sampling.settings import Settings

WORLD_BATCH_SIZE = 8  # pairs of the embedded world sampled together by default; other pairs are sampled one by one


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
    pair_options.add_pairs(p)
    p.add_argument(
        "--methods",
        default=",".join(DEFAULT_METHODS),
        metavar="A,B,...",
        help=f"methods to compare (default: %(default)s; also {', '.join(m for m in METHODS if m not in DEFAULT_METHODS)})",
    )
    p.add_argument(
        given_clips.OPTION,
        type=paths.path_text,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="clips that other programs made: in each folder a folder of frames or a video for each pair, named like the "
        "pair's folder in OUT/truth",
    )
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
    figure_options.add_figures(p)
    batch_options.add_hosts(p)
    p.add_argument("--workers", type=int, default=2, metavar="N", help="processes that compute metrics (default: %(default)s)")
    return p


def parse(argv: list[str] | None) -> EvaluationRequest:
    """Parse and check a command line. Quick; writes nothing.

    Raises:
        InputError: a user error.
    """
    args = parser().parse_args(argv)
    given = pair_options.prepare(args)
    folder = pair_options.data_folder(args)
    batch_size = args.batch_size if args.batch_size is not None else WORLD_BATCH_SIZE if folder is None else 1
    check_numbers(args, batch_size)
    check_clip_options(args)
    names = parse_methods(args.methods)
    report = args.html.name if isinstance(args.html, Path) else "report.html"
    clips = given_clips.parse(args.clips, (*METHODS, *names, clip_folders.TRUTH, *run_folder.FILES, report))
    cuts = pair_options.cut_rule(args, given)
    place = batch_options.join(args)
    memory_option.take_share(args.memory)
    check_packages()
    check_out(args.out, folder)
    models = {
        name: choose_model(name.rpartition("+")[2], args.model, args.backward) for name in names if name not in WITHOUT_MODEL
    }
    source = next(iter(models.values())).source if models else find_model(args.model)
    settings = sampling_options.sampling_settings(args, source)
    if settings.num_frames < 3:
        raise InputError(f"--num-frames is {settings.num_frames}, expected at least 3: frames between keyframes are measured")
    size = fit.parse_size(args.size) if args.size else source.config.default_size
    fit.check_size(*size, source.config.size_multiple)
    method_settings = settings_of_methods(args, models)
    mesh = choose_mesh(args, source.config, method_settings, size)
    batch_size = batch_size if mesh is None else batch_on_mesh(args, batch_size, mesh)
    return EvaluationRequest(
        methods=(*names, *clips),
        models=models,
        given=clips,
        config=source.config,
        settings=settings,
        method_settings=method_settings,
        size=size,
        count=args.pairs,
        data=data_settings(args, folder, settings.num_frames, size),
        cuts=cuts,
        manifest=given,
        batch_size=batch_size,
        workers=args.workers,
        dtype=compute_dtype(args.dtype),
        memory=memory_option.start(args.memory),
        kernels=args.kernels,
        figures=figure_options.parse_figures(args, settings.num_frames, size),
        reference=figure_options.parse_reference(args, (*names, *clips)),
        claims=Claims(place.shared, place.identity),
        mesh=mesh,
        out=args.out,
    )


def choose_mesh(
    args: argparse.Namespace, config: SVDConfig, settings: Mapping[str, Settings], size: tuple[int, int]
) -> Mesh | None:
    """The devices of the methods with a sampler; see `planned_model.choose_mesh`."""
    runs = [
        sampling_methods.run_of(sampling_methods.parse_name(name)[0], its, config.scheduler)
        for name, its in settings.items()
        if name != RECONSTRUCTION
    ]
    shapes = [(*size, its.num_frames) for its in settings.values()]
    return planned_model.choose_mesh(args, config, runs, shapes, args.batch_size or args.pairs) if runs else None


def batch_on_mesh(args: argparse.Namespace, batch_size: int, mesh: Mesh) -> int:
    """Pairs sampled together: a multiple of the parts that the mesh divides them into.

    Raises:
        InputError: both were given, and don't fit.
    """
    parts = clips_together(mesh, 1)
    if args.batch_size is not None and args.mesh is not None and batch_size % parts:
        raise InputError(f"--batch-size is {batch_size}, expected a multiple of {parts}, the parts of --mesh {args.mesh}")
    return -(-batch_size // parts) * parts


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


def check_clip_options(args: argparse.Namespace) -> None:
    """Refuse options that don't apply to the evaluated clips."""
    if args.decode_chunk is not None:
        raise InputError("--decode-chunk: changes the picture and is not evaluated; leave it out")


def parse_methods(text: str) -> tuple[str, ...]:
    """The methods of `--methods`, without duplicates."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in METHODS:
            check_prefixed(name)
    if RIFE in names:
        rife.check_installed()
    return names


def check_prefixed(name: str) -> None:
    """Refuse a name that is neither a method nor a prefix and a method, such as `mpd+vibid`."""
    try:
        if "+" not in name:
            raise InputError("")
        sampling_methods.parse_name(name)
    except InputError as e:
        expected = str(e) if "+" in name else f"is unknown, expected some of {','.join(METHODS)}, or such as mpd+vibid"
        raise InputError(f"--methods: {name!r} {expected}") from None


def settings_of_methods(args: argparse.Namespace, models: Mapping[str, MethodModel]) -> dict[str, Settings]:
    """The sampler settings of each method with a model: the given options, else the method's own."""
    settings = {}
    for name, model in models.items():
        if name == RECONSTRUCTION:
            settings[name] = sampling_options.sampling_settings(args, model.source)
        else:
            method, fields = sampling_methods.parse_name(name)
            settings[name] = sampling_options.sampling_settings(args, model.source, method=method, **fields)
    return settings


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
    return DataSettings(
        folder=folder, num_frames=num_frames, size=size, stride=args.stride, fit=args.fit, min_motion=args.min_motion
    )
