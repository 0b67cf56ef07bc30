"""The converted embedded model in the user's cache: made again if it is damaged, in a temporary folder without a cache."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from svdjax import embedded_model
from svdjax.checkpoints.checkpoint import read_info
from svdjax.runtime import cached_folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache; conversions write two small files in place of a checkpoint."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(job):
        (job.out / "unet").mkdir(parents=True)
        (job.out / "config.json").write_text('{"format": "svdjax-model"}')
        (job.out / "unet" / "data").write_bytes(b"weights")

    monkeypatch.setattr(embedded_model, "convert", write)
    return tmp_path / "cache" / "svdjax"


def set_bytes(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def replace_by_file(folder: Path):
    shutil.rmtree(folder)
    folder.write_text("a file")


def replace_by_broken_link(folder: Path):
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


DAMAGES = {
    "configuration emptied": set_bytes("config.json", b""),
    "configuration of another format": set_bytes("config.json", b'{"format": "svdjax-other"}'),
    "data emptied": set_bytes("unet/data", b""),
    "data of the same size": set_bytes("unet/data", bytes(7)),
    "data missing": lambda folder: (folder / "unet" / "data").unlink(),
    "data is a folder": lambda folder: ((folder / "unet" / "data").unlink(), (folder / "unet" / "data").mkdir()),
    "data is a named pipe": lambda folder: ((folder / "unet" / "data").unlink(), os.mkfifo(folder / "unet" / "data")),
    "hashes emptied": set_bytes(cached_folder._HASHES, b""),
    "hashes missing": lambda folder: (folder / cached_folder._HASHES).unlink(),
    "half-made": lambda folder: ((folder / "config.json").unlink(), (folder / cached_folder._HASHES).unlink()),
    "empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file": replace_by_file,
    "a broken link": replace_by_broken_link,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_made_again(cache, name):
    folder = embedded_model.checkpoint()
    assert folder.parent == cache
    DAMAGES[name](folder)
    assert embedded_model.checkpoint() == folder
    assert (folder / "unet" / "data").read_bytes() == b"weights"
    assert json.loads((folder / "config.json").read_text()) == {"format": "svdjax-model"}
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_an_undamaged_entry_stays(cache, monkeypatch):
    folder = embedded_model.checkpoint()
    monkeypatch.setattr(embedded_model, "convert", lambda job: pytest.fail("converted again"))
    assert embedded_model.checkpoint() == folder


@pytest.mark.parametrize("place", ["a file", "no home"])
def test_without_a_cache(cache, monkeypatch, capsys, place):
    if place == "a file":
        cache.parent.write_text("")
    else:
        monkeypatch.setattr(cached_folder, "user_folder", lambda: None)
        monkeypatch.setattr("svdjax.runtime.compilation_cache.user_folder", lambda: None)
    cached_folder._temporary_folder.cache_clear()
    folder = embedded_model.checkpoint()
    assert (folder / "unet" / "data").read_bytes() == b"weights"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the converted embedded model is not kept for later runs: ")
    assert embedded_model.checkpoint() == folder
    assert capsys.readouterr().err == ""


def test_the_real_entry_with_an_emptied_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = embedded_model.checkpoint()
    info = read_info(folder)
    (folder / "config.json").write_bytes(b"")
    assert read_info(embedded_model.checkpoint()).sources == info.sources
