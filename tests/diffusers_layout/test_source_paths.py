"""Paths of sources that can't be read: one line that names the path, for every function that reads one, and no waiting."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import read_backward_info
from svdjax.diffusers_layout.model_folder import open_model, open_unet
from svdjax.errors import InputError, one_line
from svdjax.loading import checkpoint_folder, find_model
from svdjax.model_sources import trained_kinds_of
from svdjax.runtime.input_files import LARGEST_JSON, read_json

READERS: dict[str, Callable[[Path], object]] = {
    "--model": find_model,
    "--model of training": lambda path: read_info(checkpoint_folder(path)),
    "SOURCE": open_model,
    "--backward-base": open_unet,
    "--backward": trained_kinds_of,
    "--init": read_backward_info,
}


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as a user without rights; root could read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


def link(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def closed(folder: Path, mode: int, inside: str = "") -> Path:
    """A folder with files that others can't use."""
    folder.mkdir()
    (folder / "svd").mkdir()
    (folder / "config.json").write_text("{}")
    folder.chmod(mode)
    return folder / inside


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another user's folder": (lambda f: closed(f / "a", 0o700), "can't be opened: Permission denied"),
    "in another user's folder": (lambda f: closed(f / "a", 0o700, "svd"), "can't be opened: Permission denied"),
    "a folder that can only be listed": (lambda f: closed(f / "a", 0o744), "can't be opened: Permission denied"),
    "300 letters": (lambda f: f / ("a" * 300), "can't be opened: File name too long"),
    "a null character": (lambda f: Path(f"{f}/a\0b"), "no such folder"),
    "a file": (lambda f: f / "file", "is a file, expected"),
    "below a file": (lambda f: f / "file" / "svd", "can't be opened: Not a directory"),
    "a broken link": (lambda f: link(f / "link", "nowhere"), "is a link to nowhere, which doesn't exist, expected"),
    "a link to itself": (lambda f: link(f / "link", "link"), "can't be opened: Too many levels of symbolic links"),
    "a named pipe": (lambda f: pipe(f / "pipe"), "is a named pipe, expected"),
    "a device": (lambda f: Path("/dev/zero"), "is a device, expected"),
    "an empty folder": (lambda f: (f / "a").mkdir() or f / "a", "has no"),
}


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "file").write_text("text")
        yield folder


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_folder_of_a_model(open_path, reader, place):
    make, message = PLACES[place]
    path = make(open_path)
    with unprivileged(), pytest.raises(InputError) as caught:
        READERS[reader](path)
    line = str(caught.value)
    assert line.startswith(f"{one_line(path)}: ")
    assert message in line or (place == "an empty folder" and "has none of these folders, expected" in line)
    assert "expected" in line


def unreadable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "unreadable": (unreadable, "can't be read: Permission denied"),
    "a folder": (lambda path: path.mkdir(), "is a folder, expected a file"),
    "a named pipe": (pipe, "is a named pipe, expected a file"),
    "a device": (lambda path: link(path, "/dev/zero"), "is a device, expected a file"),
    "a broken link": (
        lambda path: link(path, "../../blobs/1"),
        "can't be read: is a link to ../../blobs/1, which doesn't exist",
    ),
    "a link to itself": (lambda path: link(path, "config.json"), "can't be read: Too many levels of symbolic links"),
    "not UTF-8": (lambda path: path.write_bytes(b'{"a": "caf\xe9"}'), "is not JSON: "),
    "cut off": (lambda path: path.write_text('{"a": 1,'), "is not JSON: "),
    "very large": (lambda path: path.write_bytes(b" " * (LARGEST_JSON + 1)), "has more than 16,777,216 bytes, expected"),
    "nested deeply": (lambda path: path.write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "nested too deeply"),
    "a long number": (lambda path: path.write_text('{"a": ' + "9" * 5000 + "}"), "is not JSON: Exceeds the limit"),
    "a key twice": (lambda path: path.write_text('{"a": 1, "a": 2}'), "is not JSON: the key 'a' is there twice"),
    "a list": (lambda path: path.write_text("[]"), "holds a JSON list, expected an object"),
    "a Git LFS pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_configuration_that_cannot_be_read(open_path, kind):
    make, message = FILES[kind]
    file = open_path / "config.json"
    make(file)
    with unprivileged():
        with pytest.raises(InputError) as caught:
            read_json(file)
        for reader in (find_model, open_unet, read_backward_info, trained_kinds_of):
            with pytest.raises(InputError) as by_reader:
                reader(open_path)
            assert str(file) in str(by_reader.value)
    assert str(caught.value).startswith(f"{file}: {message}") or (kind == "nested deeply" and message in str(caught.value))


@pytest.mark.parametrize("name", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vae", "feature_extractor"])
@pytest.mark.parametrize("kind", ["unreadable", "a named pipe", "a broken link"])
def test_a_part_that_cannot_be_read(open_path, source, name, kind):
    folder = Path(shutil.copytree(source, open_path / "svd"))
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    part = folder / name
    if kind == "unreadable":
        part.chmod(0)
    else:
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        FILES[kind][0](part)
    with unprivileged(), pytest.raises(InputError, match=f"^{part}[:/]"):
        open_model(folder)
    if kind == "unreadable":
        part.chmod(0o700)
