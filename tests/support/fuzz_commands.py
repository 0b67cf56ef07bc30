"""Fuzzing subjects: command lines of every command, drawn from the options of its own parser, with odd values.

The work after the checks of a command line is replaced: it does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import fuzzing
import numpy as np
from fuzz_models import manifest
from fuzzing import Subject
from hypothesis import strategies as st
from PIL import Image

from svdjax.errors import InputError


@dataclass(frozen=True)
class Command:
    """A command to be called with odd arguments.

    Attributes:
        good: arguments that it accepts.
        work: what does the work after the checks; replaced.
    """

    good: tuple[str, ...]
    work: tuple[str, ...]


_TRAINING = ("train.process.start", "train.run.session.train")
COMMANDS = {
    "sample.interpolate": Command(
        ("first.png", "last.png", "-o", "out.mp4"),
        ("sample.interpolate.run", "sample.batches.batch.make", "sample.batches.numbered_frames.Footage.join"),
    ),
    "sample.animate": Command(("first.png", "last.png", "-o", "clips"), ("sample.animate.run",)),
    "sample.evaluate": Command(("--out", "results", "--pairs", "2"), ("sample.evaluate.evaluate",)),
    "sample.benchmark": Command(
        (),
        (
            *("sample.benchmark.describe", "sample.benchmark.measure", "sample.benchmark.report"),
            *("sample.benchmark.write_json", "sample.benchmarking.training_options._simulate", "sample.gpu_report.run.make"),
        ),
    ),
    "sample.figures": Command(("--out", "empty"), ("sample.figures.write",)),
    "train.backward": Command(("--model", "model", "--data", "folder", "--out", "run", "--num-frames", "2"), _TRAINING),
    "train.base": Command(("vae", "--data", "folder", "--out", "run", "--num-frames", "2"), _TRAINING),
    "convert.svd_to_flax": Command(("folder", "out"), ()),
    "convert.flax_to_svd": Command(("model", "out", "--whole"), ("svdjax.diffusers_layout.exporting._write",)),
}
ODD = (
    *("", " ", "-", "--", "-1", "0", "1", "2", "3", "8", "25", "1.5", "0.0", "-0", "1e999", "nan", "inf", "-inf", "1e-320"),
    *(
        "9" * 30,
        "9" * 5000,
        "0x10",
        "1_0",
        "\u0661\u0662",
        "1/3",
        "24000/1001",
        "24/0",
        "1\n2",
        "\u202e",
        "a\0b",
        "\udce9",
        "x" * 300,
    ),
    *(
        "16x16",
        "64x64",
        "0x0",
        "-8x8",
        "1x99999999999",
        "64x",
        "x",
        "data=1",
        "data=-1,fsdp=1",
        "data=0",
        "data=2,data=2",
        "=",
        ",",
    ),
    *("float32", "bfloat16", "embedded", "world:4", "world:", "world:-1", "dual", "dual,trf", "none", "cross-fade"),
    *(
        "first.png",
        "last.png",
        "broken.png",
        "text.txt",
        "folder",
        "folder/",
        "empty",
        "missing/x.mp4",
        "pipe",
        "loop",
        "nowhere",
    ),
    *("out.mp4", "out.gif", "out.webp", "out/", "out.png", "out.npz", "old.mp4", "/proc/x.png", "/dev/null", "/dev/full/x.mp4"),
)

ODD_TEXT = st.sampled_from(ODD) | st.text(max_size=5)
INTEGERS = ("0", "1", "2147483647", "2147483648", "4294967295", "4294967296", "9" * 19, "9" * 30, "-9223372036854775809")
REALS = ("0", "1", "nan", "inf", "-inf", "1e308", "1e-320", "1e999", "-0.0")


def subjects(folder: Path) -> dict[str, Subject]:
    """The subjects; commands run in `folder`."""
    make_files(folder)
    return {
        f"command lines of {name}": Subject(
            command_lines(parser_of(name), command.good), functools.partial(call, name, folder), 10 if "train" in name else 20
        )
        for name, command in COMMANDS.items()
    }


def make_files(folder: Path) -> None:
    for name, seed in (("first.png", 0), ("last.png", 1), ("folder/1.png", 2), ("folder/2.png", 3)):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "first.png").read_bytes()[:100])
    (folder / "text.txt").write_text("text")
    (folder / "old.mp4").write_bytes(b"old")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("not there")
    manifest(folder / "model")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser that a command builds."""
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        found.append(parser)
        raise InputError("stopped")

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), contextlib.suppress(InputError):
        importlib.import_module(name).command([])
    return found[0]


@st.composite
def command_lines(draw: st.DrawFn, parser: argparse.ArgumentParser, good: tuple[str, ...]) -> list[str]:
    """Arguments that the command accepts, some replaced or left out, and up to four options with right or odd values."""
    words = []
    for word in good:
        chance = draw(st.integers(0, 19))
        words += [] if chance == 1 else [draw(ODD_TEXT)] if chance == 2 else [word]
    options = [action for action in parser._actions if action.option_strings and not isinstance(action, argparse._HelpAction)]
    for action in draw(st.lists(st.sampled_from(options), max_size=4)):
        count = action.nargs if isinstance(action.nargs, int) else 2 if action.nargs in ("*", "+") else 1
        if draw(st.integers(0, 29)) == 0:
            count += draw(st.sampled_from((-1, 1)))
        words += [draw(st.sampled_from(action.option_strings)), *(draw(values(action)) for _ in range(max(count, 0)))]
    return words


def values(action: argparse.Action) -> st.SearchStrategy[str]:
    """Values of an option: mostly of its kind, near its limits, and some that no option takes."""
    if action.choices is not None:
        likely = st.sampled_from(sorted(map(str, action.choices)))
    elif action.type is int:
        likely = st.integers(-1, 65).map(str) | st.sampled_from(INTEGERS)
    elif action.type is float:
        likely = st.floats(-2, 2).map(str) | st.sampled_from(REALS)
    else:
        likely = ODD_TEXT
    return st.one_of(likely, likely, likely, ODD_TEXT)


def call(name: str, folder: Path, words: list[str]) -> None:
    """Run a command; it must leave all files as they were."""
    with contextlib.ExitStack() as stack:
        for work in COMMANDS[name].work:
            stack.enter_context(mock.patch(work))
        stack.enter_context(contextlib.chdir(folder))
        before = fuzzing.files(folder)
        fuzzing.command_status(importlib.import_module(name).main, words)
        made = {path.split("/")[0] for path in {*fuzzing.files(folder)} - {*before}}
        assert not made - set(COMMANDS[name].good), f"files were left behind: {made}"
        for path in made:
            shutil.rmtree(folder / path)
