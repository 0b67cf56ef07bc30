"""Options of `sample.benchmark` for a GPU that need not be present."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from sample.planning import methods
from sample.planning.targets import CARDS, card
from svdjax.devices.budget import GIB
from svdjax.errors import InputError
from svdjax.runtime import paths
from svdjax.runtime.memory_option import add_memory
from svdjax.runtime.output_paths import check_new_files_in


@dataclass(frozen=True)
class TargetOptions:
    """The GPU to compile for.

    Attributes:
        name: its name in `CARDS`.
        memory: GiB that a whole run may use; None to plan no run.
        hlo: folder for the HLO text of the compiled programs.
        methods: methods with settings, see `methods.parse`; none to plan a dual step.
    """

    name: str
    memory: float | None
    hlo: Path | None
    methods: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The options as on a command line."""
        memory = [] if self.memory is None else ["--memory", f"{self.memory:g}"]
        chosen = ["--method", *self.methods] if self.methods else []
        return ["--target", self.name, *memory, *chosen, *([] if self.hlo is None else ["--hlo", str(self.hlo)])]


def add_arguments(p: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = p.add_argument_group("a GPU that need not be present (extra cuda)")
    group.add_argument(
        "--target",
        metavar="CARD",
        help=f"compile for this GPU and count memory, bytes moved and operations; nothing is run: {', '.join(CARDS)}",
    )
    group.add_argument("--hlo", type=paths.path, metavar="DIR", help="write the HLO of each compiled program to DIR/NAME.txt")
    group.add_argument("--method", nargs="+", default=[], metavar="NAME", help=methods.HELP)
    add_memory(group)


def check_arguments(args: argparse.Namespace) -> TargetOptions | None:
    """The checked options; None without `--target`."""
    if args.target is None:
        given = {"--hlo": args.hlo, "--memory": args.memory, "--method": args.method or None}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} applies only to compiling for a GPU: expected --target too")
        return None
    given = card(args.target)
    if args.memory is not None and int(args.memory * GIB) > given.memory_bytes:
        most = f"{given.memory_bytes / GIB:.2f} GiB, the memory of {given.title}"
        raise InputError(f"--memory is {args.memory:g}, expected at most {most}")
    for option, value in {"--train": args.train, "--memory": args.memory is not None}.items():
        if args.method and value:
            raise InputError(f"--method gives lower bounds of the time of sampling: expected no {option}")
    if not args.train and args.mesh is not None:
        for option, value in {"--memory": args.memory is not None, "--method": args.method}.items():
            if value:
                raise InputError(f"--mesh {args.mesh}: {option} plans for one device, expected only one of them")
    for name in args.method:
        methods.parse(name)
    if args.against:
        raise InputError("--against diffusers runs a step, but --target runs nothing: expected only one of them")
    if args.hlo is not None:
        check_new_files_in(args.hlo, f"--hlo {args.hlo}")
    return TargetOptions(args.target.lower(), args.memory, args.hlo, tuple(args.method))
