"""`python -m sample.figures`: the paper's figures 5.5 and 5.6 with the embedded model, as contact sheets.

OUT/second-keyframes.webp   one first keyframe, three different second ones
OUT/limits.webp             keyframes too far apart, and nearly disjoint ones
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from sample import console, contact_sheet, sampling_options
from svdjax import embedded_model, pipeline
from svdjax.checkpoints import checkpoint
from svdjax.errors import InputError
from svdjax.runtime import cli, compilation_cache
from svdjax.sampling.draws import draw
from svdjax.sampling.settings import Settings
from svdjax.world.drawing import render
from svdjax.world.scene import FRAMES, TURN, Scene, scene

_FIRST = 11  # of the test clips: its thing has room to turn either way
_FAST = 2.5  # times as fast as anything in the world
_OTHERS = (21, 34)  # two clips that have nothing to do with each other

Case = tuple[str, np.ndarray, np.ndarray]  # a name, the first and the last keyframe


def second_keyframes() -> list[Case]:
    """The same thing turning left, going straight, turning right."""
    start = dataclasses.replace(scene("test", _FIRST), centre=(32.0, 32.0), speed=3.0)
    cases = []
    for name, turn in (("turning left", -TURN), ("straight", 0.0), ("turning right", TURN)):
        clip = render(dataclasses.replace(start, turn=turn))
        cases.append((name, clip[0], clip[-1]))
    return cases


def limits() -> list[Case]:
    """What the paper's method can't do, nor this one: motion beyond what the model knows, and frames without a way between."""
    usual = scene("test", _FIRST)
    fast = _centred(dataclasses.replace(usual, speed=usual.speed * _FAST, turn=0.0))
    clips = [render(fast), *(render(scene("test", number)) for number in _OTHERS)]
    return [("too far apart", clips[0][0], clips[0][-1]), ("nearly disjoint", clips[1][0], clips[2][-1])]


def _centred(moving: Scene) -> Scene:
    """The scene with the middle of its way in the middle of the picture."""
    middle = moving.centres[[0, -1]].mean(0)
    return dataclasses.replace(moving, centre=tuple(float(c + 32 - m) for c, m in zip(moving.centre, middle, strict=True)))


def command(argv: list[str] | None) -> None:
    p = cli.Parser(prog="python -m sample.figures", description="The paper's figures with the embedded model.")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the pictures, which are replaced")
    sampling_options.add_steps(p)
    p.add_argument("--seed", type=int, default=Settings.seed, help="seed of every random draw (%(default)s)")
    sampling_options.add_recurrence(p)
    args = p.parse_args(argv)
    if not args.out.is_dir():
        raise InputError(f"{args.out}: there is no such folder")
    if not os.access(args.out, os.W_OK | os.X_OK):
        raise InputError(f"{args.out}: can't be written")
    settings = Settings(FRAMES, sampling_options.asked(args, "steps"), args.seed, **sampling_options.recurrence_settings(args))
    with console.one_line_errors("nothing was written"):
        write(args.out, settings)


def write(out: Path, settings: Settings) -> None:
    """Make all clips in one batch, and a sheet of each figure's."""
    compilation_cache.enable()
    model = checkpoint.load(embedded_model.checkpoint(), dtype=console.compute_dtype(None))
    figures = {"second-keyframes": second_keyframes(), "limits": limits()}
    cases = [case for of_figure in figures.values() for case in of_figure]
    first, last = (np.stack([case[i] for case in cases]) for i in (1, 2))
    height, width = first.shape[1:3]
    draws = draw(
        [settings.seed] * len(cases), (height, width, 3), pipeline.latent_shape(model.config, settings, (height, width))
    )
    with console.progress_bar("sampling", len(settings.schedule(model.config.scheduler))) as progress:
        latents = pipeline.sample_pair(model, first, last, settings, draws=draws, progress=progress)
    clips = iter(pipeline.decode(model, latents))
    for name, of_figure in figures.items():
        rows: list[contact_sheet.Row] = []
        for title, a, b in of_figure:
            clip = next(clips)
            given = np.full_like(clip, 255)
            given[0], given[-1] = a, b
            rows += [(title, given), ("", clip)]
        contact_sheet.save(contact_sheet.draw(rows), out / f"{name}.webp")
        print(f"wrote {out / name}.webp")


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
