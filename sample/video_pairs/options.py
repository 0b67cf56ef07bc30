"""Options for pairs of keyframes from videos, checked before any long work."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from sample.video_pairs import cut_list, manifest
from sample.video_pairs.cut_list import CutRule
from sample.video_pairs.manifest import Manifest
from svdjax.data import world_clips
from svdjax.data.sources import check_folder
from svdjax.errors import InputError
from svdjax.media.scene_cuts import DETECT
from svdjax.runtime import cli, paths

MIN_MOTION = 0.1  # levels; compression noise of a still picture has less
WORLD_PAIRS = 200


def add_pairs(p: cli.Parser) -> None:
    """Add the options that choose pairs of keyframes, which `prepare` reads."""
    p.add_argument(
        "--pairs", type=int, metavar="N", help=f"number of keyframe pairs (default: {WORLD_PAIRS}, or all of --manifest)"
    )
    p.add_argument(
        "--data",
        type=world_clips.data_folder,
        metavar="DIR",
        help="folder with videos or folders of frames; pairs come from windows that don't overlap, taken from all videos in "
        "turn in an order drawn from --seed (default: test clips of the embedded world)",
    )
    p.add_argument(
        "--gap",
        type=int,
        metavar="N",
        help="frames from keyframe to keyframe; the clip has N + 1 frames (default: the model's frames less 1)",
    )
    p.add_argument("--stride", type=int, metavar="N", help="use every Nth frame of --data; --gap counts these (default: 1)")
    p.add_argument(
        "--cuts",
        type=paths.path_text,
        metavar="detect|none|FILE.csv",
        help="scene cuts of --data, which no pair crosses: found with PySceneDetect, none, or a list with the columns "
        "video,frame (the first frame of a new scene, from 0) (default: detect)",
    )
    p.add_argument(
        "--min-motion",
        type=float,
        metavar="LEVELS",
        help="leave out pairs with less motion: mean luma difference of neighbouring frames, 0 to 255, at a height of 64 "
        f"pixels (default: {MIN_MOTION:g})",
    )
    p.add_argument(
        "--manifest",
        type=paths.path,
        metavar="FILE.csv",
        help="take the pairs of an earlier evaluation (its pairs.csv) from the videos in --data, and check that their pixels "
        "are the same",
    )


def prepare(args: argparse.Namespace) -> Manifest | None:
    """Check the options of `add_pairs` and fill in those that were left out or follow from others.

    Sets `num_frames`, `size`, `fit`, `stride`, `pairs` and `min_motion` of `args`.

    Returns:
        The manifest of `--manifest`.

    Raises:
        InputError: a user error.
    """
    given = None
    if in_world(args):
        wrong = [name for name in ("stride", "cuts", "min_motion", "manifest") if getattr(args, name) is not None]
        wrong += ["fit"] if args.fit not in (None, "crop") else []
        if wrong:
            option = f"--{wrong[0].replace('_', '-')}"
            raise InputError(f"{option}: applies only to the clips of --data, not to the embedded world; leave it out")
    elif args.manifest is not None:
        given = manifest.read(args.manifest)
        _follow(args, given)
    if args.gap is not None:
        if args.gap < 2:
            raise InputError(f"--gap is {args.gap}, expected at least 2: frames between keyframes are measured")
        if args.num_frames not in (None, args.gap + 1):
            raise InputError(f"--num-frames {args.num_frames}: a --gap of {args.gap} has {args.gap + 1} frames; leave it out")
        args.num_frames = args.gap + 1
    _default(args, "stride", 1)
    _default(args, "fit", "crop")
    _default(args, "min_motion", MIN_MOTION)
    _default(args, "pairs", WORLD_PAIRS if given is None else len(given.rows))
    if given is not None and args.pairs > len(given.rows):
        raise InputError(f"--pairs {args.pairs}: {given.path} has {len(given.rows)} pairs")
    if not (math.isfinite(args.min_motion) and args.min_motion >= 0):
        raise InputError(f"--min-motion is {args.min_motion}, expected a number of at least 0")
    return given


def cut_rule(args: argparse.Namespace, given: Manifest | None) -> CutRule | None:
    """`--cuts` for clips of a folder that no manifest lists. Call it after `prepare`."""
    if in_world(args) or given is not None:
        return None
    return cut_list.parse(args.cuts or DETECT)


def in_world(args: argparse.Namespace) -> bool:
    """Whether the pairs are test clips of the embedded world."""
    return args.data is None or world_clips.is_world(args.data)


def data_folder(args: argparse.Namespace) -> Path | None:
    """The folder of `--data`, None for the embedded world."""
    return None if in_world(args) else check_folder(args.data)


def _follow(args: argparse.Namespace, given: Manifest) -> None:
    """Take the options from a manifest; refuse others than its own."""
    for name in ("cuts", "min_motion"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}: the pairs are those of --manifest {given.path}; leave it out")
    size = "x".join(map(str, given.size))
    shared: dict[str, Any] = {"gap": given.gap, "stride": given.stride, "size": size, "fit": given.fit}
    for name, value in shared.items():
        own = getattr(args, name)
        if own not in (None, value):
            raise InputError(f"--{name} {own}: --manifest {given.path} has {value}; leave it out")
        setattr(args, name, value)


def _default(args: argparse.Namespace, name: str, value: Any) -> None:
    if getattr(args, name) is None:
        setattr(args, name, value)
