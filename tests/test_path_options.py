"""Every option of every command that takes a path refuses a bad one in one line, before the long work, and writes nothing.

The options are those that the parsers list, so that a new option is tried too.
"""

import argparse
import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from svdjax.data.world_clips import data_folder
from svdjax.runtime import cli, paths

ROOT = Path(__file__).parents[1]
PATH_TYPES = (paths.path, paths.path_text, data_folder)
PATH_METAVAR = re.compile(r"DIR|FILE|PATH|OUT|SOURCE|IMAGE|KEYFRAME|MODEL")
TINY = ("--size", "64x64", "--num-frames", "2")
# A correct command line of each command; `{here}` is the test's folder. Each test replaces or adds one path.
CORRECT = {
    "sample.interpolate": ["{here}/a.png", "{here}/b.png", "--out", "{here}/new", *TINY],
    "sample.animate": ["{here}/a.png", "--out", "{here}/new", *TINY],
    "sample.evaluate": ["--out", "{here}/new", "--pairs", "1", "--methods", "cross-fade"],
    "sample.benchmark": ["--model", "embedded", "--compile-only"],
    "sample.app": ["--model", "embedded"],
    "sample.figures": ["--out", "{here}"],
    "sample.fetch_clips": ["{here}/new"],
    "train.backward": ["--model", "embedded", "--data", "world", "--clips", "1", "--out", "{here}/new", "--steps", "1"],
    "train.base": ["unet", "--model", "embedded", "--data", "world", "--clips", "1", "--out", "{here}/new", "--steps", "1"],
    "convert.svd_to_flax": ["{here}", "{here}/new"],
    "convert.flax_to_svd": ["{here}", "{here}/new"],
}


class Caught(Exception):
    """Carries a command's parser out of the command."""


def parser_of(command: str) -> argparse.ArgumentParser:
    with pytest.MonkeyPatch.context() as patch:

        def catch(parser, *_):
            raise Caught(parser)

        patch.setattr(cli.Parser, "parse_args", catch)
        with pytest.raises(Caught) as caught:
            import_module(command).main([])
    return caught.value.args[0]


def _path_actions() -> Iterator[tuple[str, str]]:
    """A command, and the name of one of its arguments that takes a path."""
    for command in CORRECT:
        for action in parser_of(command)._actions:
            if action.type in PATH_TYPES:
                yield command, action.option_strings[-1] if action.option_strings else action.dest


ACTIONS = list(_path_actions())


def test_every_command_is_tried():
    scripts = {target.split(":")[0].split(".")[0] for target in CORRECT}
    found = {
        f"{package}.{path.stem}"
        for package in scripts
        for path in (ROOT / package).glob("*.py")
        if "def main(" in path.read_text()
    }
    assert found == CORRECT.keys()


@pytest.mark.parametrize("command", CORRECT)
def test_paths_have_the_type_of_paths(command):
    """An argument that is shown as a path has one of the types that check it."""
    for action in parser_of(command)._actions:
        assert action.type is not Path, action.dest
        shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper() if not action.option_strings else ""
        if action.nargs != 0 and PATH_METAVAR.search(shown or ""):
            assert action.type in PATH_TYPES, action.dest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two keyframes. Loading a model, the start of the long work, fails the test."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)

    def begun(*_, **__):
        raise AssertionError("the long work has begun")

    for target in ("loading.Checkpoint.load", "loading.DiffusersFolder.load", "checkpoints.checkpoint.load"):
        monkeypatch.setattr(f"svdjax.{target}", begun)
    return tmp_path


def command_line(command: str, argument: str, path: str, here: Path) -> list[str]:
    """The correct command line with `path` for `argument`: an option, or the name of a positional argument."""
    line = [text.format(here=here) for text in CORRECT[command]]
    if argument.startswith("-"):
        with contextlib.suppress(ValueError):
            at = line.index(argument)
            del line[at : at + 2]
        return [*line, argument, path]
    positional = [action.dest for action in parser_of(command)._actions if not action.option_strings]
    line[positional.index(argument)] = path
    return line


def refusal(command: str, argument: str, path: str, here: Path, capsys) -> str:
    """The one line of the refusal; checks that nothing was written."""
    before = sorted(here.rglob("*"))
    capsys.readouterr()
    status = import_module(command).main(command_line(command, argument, path, here))
    captured = capsys.readouterr()
    assert status == 2, captured
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert sorted(here.rglob("*")) == before
    return line


def ending_of(command: str, argument: str) -> str:
    """The file ending that an option expects, from its help."""
    action = next(a for a in parser_of(command)._actions if argument in (*a.option_strings, a.dest))
    return (re.findall(r"\.\w+$", str(action.metavar)) or [""])[0]


def too_long(here: Path) -> tuple[str, str]:
    return str(here / ("n" * 300)), "file name too long"


def link_to_itself(here: Path) -> tuple[str, str]:
    (here / "loop").symlink_to(here / "loop")
    return str(here / "loop"), "too many levels of symbolic links"


def below_a_file(here: Path) -> tuple[str, str]:
    return str(here / "a.png" / "x"), "not a directory"


def empty(here: Path) -> tuple[str, str]:
    return "", "is empty, expected a path"


IMPOSSIBLE = (too_long, link_to_itself, below_a_file, empty)


@pytest.mark.parametrize("make", IMPOSSIBLE)
@pytest.mark.parametrize(("command", "argument"), ACTIONS)
def test_impossible_paths(command, argument, make, here, capsys):
    path, reason = make(here)
    line = refusal(command, argument, path, here, capsys)
    assert reason in line
    assert argument.removesuffix("s") in line.lower()


def in_proc(here: Path) -> str:
    return "/proc/caf\udce9"


def link_to_nowhere(here: Path) -> str:
    (here / "nowhere").symlink_to(here / "missing" / "target")
    return str(here / "nowhere")


@pytest.mark.parametrize("make", [in_proc, link_to_nowhere])
@pytest.mark.parametrize(("command", "argument"), ACTIONS)
def test_paths_that_are_no_input_and_no_output(command, argument, make, here, capsys):
    """An input isn't there; an output can't be written."""
    path = make(here) + ending_of(command, argument)
    if path.startswith(str(here)) and not os.path.lexists(path):
        os.symlink(here / "missing" / "target", path)
    refusal(command, argument, path, here, capsys)


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small disk in memory; skips the test where this user may not mount one."""
    folder.mkdir()
    listed = ",".join(("size=16k", *options))
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", listed, "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs the rights of root")
@pytest.mark.parametrize(("command", "argument"), ACTIONS)
def test_full_and_read_only_disks(command, argument, here, capsys):
    ending = ending_of(command, argument)
    with mounted(here / "read-only", "ro") as disk:
        refusal(command, argument, str(disk / "x") + ending, here, capsys)
    with mounted(here / "full") as disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
            while True:
                file.write(bytes(512))
                file.flush()
        refusal(command, argument, str(disk / "x") + ending, here, capsys)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Be a user without rights, if this one is root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(("command", "argument"), ACTIONS)
def test_folder_of_another_user(command, argument, here, capsys):
    here.chmod(0o755)
    private = here / "private"
    private.mkdir()
    parser_of(command)  # imports what the command needs, which that user may not be able to read
    private.chmod(0)
    line = command_line(command, argument, str(private / "x"), here)
    try:
        with another_user():
            status = import_module(command).main(line)
    finally:
        private.chmod(0o700)
    captured = capsys.readouterr()
    assert (status, captured.err.count("\n")) == (2, 1), captured
    assert "permission denied" in captured.err
