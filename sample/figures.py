"""`python -m sample.figures`: the paper's figures 5.5 and 5.6 with the embedded model, as contact sheets.

OUT/second-keyframes.webp   one first keyframe, three different second keyframes
OUT/limits.webp             keyframes too far apart, and nearly disjoint keyframes
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sample import console, contact_sheet, planned_model, sampling_options
from sample.output_files import Outputs
from svdjax.errors import InputError
from svdjax.loading import find_model
from svdjax.model_sources import ModelSource
from svdjax.runtime import cli, compilation_cache, memory_option, paths
from svdjax.runtime.dtypes import compute_dtype
from svdjax.runtime.output_paths import check_new_file
from svdjax.sampling import generation
from svdjax.sampling.draws import draw
from svdjax.sampling.methods import run_of
from svdjax.sampling.settings import Settings
from svdjax.world.drawing import render
from svdjax.world.scene import FRAMES, SIZE, TURN, Scene, scene

_TURNING = 11  # number of a test clip with enough space for its object to turn left or right
_FAST = 2.5  # factor on the speed of a clip of the embedded world
_DISJOINT = (21, 34)  # numbers of two test clips


class Case(NamedTuple):
    """Two keyframes of a figure, uint8 (H, W, 3), and their title."""

    title: str
    first: np.ndarray
    last: np.ndarray


def second_keyframes() -> list[Case]:
    """The same object turning left, going straight, turning right."""
    start = dataclasses.replace(scene("test", _TURNING), centre=(32.0, 32.0), speed=3.0)
    cases = []
    for title, turn in (("turning left", -TURN), ("straight", 0.0), ("turning right", TURN)):
        clip = render(dataclasses.replace(start, turn=turn))
        cases.append(Case(title, clip[0], clip[-1]))
    return cases


def limits() -> list[Case]:
    """Limits of the method: motion faster than in the training data, and keyframes with almost nothing in common."""
    usual = scene("test", _TURNING)
    fast = render(_centred(dataclasses.replace(usual, speed=usual.speed * _FAST, turn=0.0)))
    one, other = (render(scene("test", number)) for number in _DISJOINT)
    return [Case("too far apart", fast[0], fast[-1]), Case("nearly disjoint", one[0], other[-1])]


def _centred(moving: Scene) -> Scene:
    """Move a scene so that the midpoint between its first and last positions is the centre of the frame."""
    x, y = np.add(moving.centre, SIZE / 2) - moving.centres[[0, -1]].mean(0)
    return dataclasses.replace(moving, centre=(float(x), float(y)))


FIGURES = {"second-keyframes": second_keyframes, "limits": limits}


def write(out: Path, source: ModelSource, settings: Settings, memory: int | None) -> None:
    """Sample all clips in one batch and write each figure as a contact sheet."""
    compilation_cache.enable()
    figures = {name: make() for name, make in FIGURES.items()}
    cases = [case for of_figure in figures.values() for case in of_figure]
    first, last = np.stack([case.first for case in cases]), np.stack([case.last for case in cases])
    height, width = first.shape[1:3]
    size = width, height
    model, plans = planned_model.load(source, compute_dtype(), memory, settings, [size], batch=len(cases))
    plan = plans[size]
    shape = generation.latent_shape(model.config, settings, (height, width))
    draws = draw([settings.seed] * len(cases), (height, width, 3), shape)
    with console.progress_bar("sampling", run_of("dual", settings, model.config.scheduler).evaluations) as progress:
        latents = generation.sample_pair(model, first, last, settings, draws=draws, progress=progress, plan=plan)
    clips = iter(generation.decode(model, latents, plan=plan and plan.decode))
    outputs = Outputs()
    for name, of_figure in figures.items():
        strips: list[contact_sheet.Strip] = []
        for case in of_figure:
            clip = next(clips)
            keyframes = np.full_like(clip, 255)
            keyframes[0], keyframes[-1] = case.first, case.last
            strips += [(case.title, keyframes), ("", clip)]
        with outputs.attempt():
            contact_sheet.save(contact_sheet.render(strips), figure_path(out, name))
            print(f"wrote {figure_path(out, name)}")
    outputs.finish()


def figure_path(out: Path, name: str) -> Path:
    """The file of a figure."""
    return out / f"{name}.webp"


def command(argv: list[str] | None) -> None:
    p = cli.Parser(prog="python -m sample.figures", description="Draw the paper's figures 5.5 and 5.6 with the embedded model.")
    p.add_argument(
        "--out", type=paths.path, required=True, metavar="DIR", help="existing folder for the figures; old files are replaced"
    )
    sampling_options.add_steps(p)
    p.add_argument("--seed", type=int, default=Settings.seed, help="seed of all random draws (default: %(default)s)")
    sampling_options.add_recurrence(p)
    memory_option.add_memory(p)
    args = p.parse_args(argv)
    memory_option.take_share(args.memory)
    if not args.out.is_dir():
        raise InputError(f"{args.out}: no such folder")
    for name in FIGURES:
        check_new_file(figure_path(args.out, name), "--out", (".webp",), overwrite=True)
    source = find_model(None)
    settings = sampling_options.sampling_settings(args, source, num_frames=FRAMES)
    with console.one_line_errors("nothing was written"):
        write(args.out, source, settings, memory_option.start(args.memory))


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
