"""The user's cache folder, and what happens without one."""

from pathlib import Path

import jax
import pytest

from svdjax.errors import InputError
from svdjax.runtime import compilation_cache


@pytest.fixture(autouse=True)
def no_cache_yet():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_user_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache.user_folder() == tmp_path / "svdjax"
    for other in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", other)
        assert compilation_cache.user_folder() == Path("/home/someone/.cache/svdjax")


def test_no_home(monkeypatch, capsys):
    """In a container with HOME unset and a user id without an account, a command goes on without a cache."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert compilation_cache.user_folder() is None
    assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err == (
        "note: compiled programs are not kept for later runs: no cache folder: HOME is not set, and this user id has no "
        "account; set XDG_CACHE_HOME to a folder\n"
    )
    with pytest.raises(InputError, match="set XDG_CACHE_HOME to a folder"):
        compilation_cache.writable_user_folder()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda parent: parent.write_text("a file"), "can't be created: Not a directory"),
        (lambda parent: parent.symlink_to(parent), "can't be created: Too many levels of symbolic links"),
    ],
)
def test_unusable_folder(monkeypatch, capsys, tmp_path, make, reason):
    parent = tmp_path / "cache"
    make(parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(parent))
    assert compilation_cache.enable() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"note: compiled programs are not kept for later runs: cache folder {parent}/svdjax: {reason}; set XDG_CACHE_HOME to "
        "another folder"
    )


def test_enabled(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compilation_cache.enable() == tmp_path / "cache" / "svdjax"
    assert compilation_cache.enable() == tmp_path / "cache" / "svdjax"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "svdjax")
    assert capsys.readouterr() == ("", "")
