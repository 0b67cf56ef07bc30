"""Partial folders: what a living process writes is kept, what a dead one left is removed."""

from __future__ import annotations

import errno
import fcntl

import pytest

from train.batches.partial_folder import LOCK, partial_folder, remove_abandoned


def abandon(target) -> None:
    """Leave a partial folder as a killed process does."""
    folder = target.with_name(f".{target.name}.dead.partial")
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / "file").write_text("half")


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_renamed_folder_has_only_what_was_written(tmp_path):
    with partial_folder(tmp_path / "a") as partial:
        (partial / "file").write_text("all")
        partial.rename(tmp_path / "a")
    assert names(tmp_path) == ["a", "file"]


def test_a_folder_that_is_not_renamed_is_removed(tmp_path):
    def interrupted():
        with partial_folder(tmp_path / "a") as partial:
            (partial / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_only_abandoned_folders_are_removed(tmp_path):
    abandon(tmp_path / "a")
    abandon(tmp_path / "b")
    (tmp_path / ".a.123.partial").mkdir()  # without a lock
    with partial_folder(tmp_path / "a") as partial:
        remove_abandoned(tmp_path, {"a"})
        assert names(tmp_path) == sorted([partial.name, LOCK, ".b.dead.partial", LOCK, "file"])


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    """Whether their processes live can't be known."""

    def flock(*given):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    abandon(tmp_path / "a")
    with partial_folder(tmp_path / "a") as partial:
        remove_abandoned(tmp_path, {"a"})
        assert {path.name for path in tmp_path.iterdir()} == {partial.name, ".a.dead.partial"}
