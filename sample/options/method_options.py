"""Options that choose a method and its prefix, and their checks."""

from __future__ import annotations

import argparse

from sample import sampling_options
from svdjax.errors import InputError
from svdjax.model_sources import ModelSource, trained_kinds_of
from svdjax.runtime import cli
from svdjax.sampling import methods
from svdjax.sampling.runs import Run
from svdjax.sampling.settings import PREFIXES, Settings


def add_method(p: cli.Parser) -> None:
    """Add `--method`, which `choose_method` reads."""
    p.add_argument(
        "--method",
        choices=methods.METHODS,
        help="; ".join(f"{method.name}: {method.summary}" for method in methods.METHODS.values())
        + f" (default: dual; without backward weights {' with --prefix '.join(methods.TRAINING_FREE)})",
    )


def add_prefix(p: cli.Parser, *, choose: bool = True) -> None:
    """Add the options of a prefix; without `choose` not `--prefix` itself, for commands in which method names have it."""
    if choose:
        p.add_argument(
            "--prefix",
            choices=PREFIXES,
            help="updates before the method's own in the early steps; mpd: Motion Prior Distillation (default: none)",
        )
    p.add_argument("--prefix-steps", type=int, metavar="N", help="steps with the prefix (default: a fifth of the steps)")
    p.add_argument(
        "--prefix-repeats",
        type=int,
        metavar="N",
        help=f"updates of the prefix in each of these steps (default: {Settings.prefix_repeats})",
    )


def choose_method(args: argparse.Namespace, model: ModelSource) -> tuple[str, Settings, list[str]]:
    """The method, its settings, and notes for the user.

    Raises:
        InputError: the method can't use the backward weights, or settings are wrong.
    """
    kinds = model.trained_kinds() if args.backward is None else trained_kinds_of(args.backward)
    method, fields = methods.chosen_method(args.method, kinds, sampling_options.given_fields(args))
    try:
        methods.check_backward_weights(method, kinds)
    except InputError as e:
        raise InputError(f"{args.backward or model.folder}: {e}") from None
    settings = sampling_options.sampling_settings(args, model, method=method, **fields)
    notes = check_effect(args, methods.run_of(method, settings, model.config.scheduler), settings)
    if args.method is None and kinds is None:
        prefix = "" if settings.prefix is None else f" with prefix {settings.prefix}"
        notes.insert(
            0,
            f"no backward weights: method {method.name}{prefix}, which has the best published FVD of the methods without them; "
            "with --backward DIR the method is dual: its backward direction is fine-tuned for motion in reversed time",
        )
    return method.name, settings, notes


def check_effect(args: argparse.Namespace, run: Run, settings: Settings) -> list[str]:
    """Refuse options of a prefix without a prefix; return notes on other given options that have no effect on a run."""
    for name in ("prefix_steps", "prefix_repeats"):
        if settings.prefix is None and getattr(args, name, None) is not None:
            raise InputError(f"{_option(name)}: there is no prefix; give --prefix {PREFIXES[0]} or leave it out")
    useless = {
        # at a higher frame rate, both directions are fused with every method that has them
        "fusion": run.directions == 1 or (all(kind.single for kind in run.kinds) and getattr(args, "rate", 1) == 1),
        "guidance_steps": not any(kind.guided for kind in run.kinds),
        "recurrence_ratio": settings.recurrence == 0,
    }
    found = [name for name, none in useless.items() if none and getattr(args, name, None) is not None]
    return [f"{_option(name)}: has no effect with this method and these settings" for name in found]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
