"""Output paths are refused in one line before a command does its work."""

import errno
import tempfile

import pytest

from svdjax.errors import InputError
from svdjax.runtime.output_paths import check_new_file, check_parent, check_writable


def message(check, *args, **options) -> str:
    with pytest.raises(InputError) as e:
        check(*args, **options)
    return str(e.value)


def test_parent(tmp_path):
    file = tmp_path / "file"
    file.touch()
    check_parent(tmp_path / "new")
    assert message(check_parent, tmp_path / "a" / "b") == f"{tmp_path}/a/b: the folder {tmp_path}/a doesn't exist"
    assert message(check_parent, file / "b", "--sheet b") == f"--sheet b: {file} is a file, expected a folder"


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    check_parent((tmp_path / "a" / "b").relative_to(tmp_path))
    assert message(check_parent, tmp_path.joinpath("c", "d").relative_to(tmp_path)).startswith("c/d: the folder /")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "no permission to write there"),
        (OSError(errno.EROFS, "Read-only file system"), "can't be written: Read-only file system"),
    ],
)
def test_unwritable_folder(tmp_path, monkeypatch, error, reason):
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())

    def refuse(dir, **_):
        raise error

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    assert message(check_writable, tmp_path) == f"{tmp_path}: {reason}"
    assert message(check_writable, tmp_path, "--out x") == f"--out x: {reason}"


def test_new_file(tmp_path):
    path, folder = tmp_path / "a.png", tmp_path / "b.png"
    folder.mkdir()

    def check(path, overwrite=False):
        check_new_file(path, "--sheet", (".png", ".webp"), overwrite=overwrite)

    check(path)
    assert not path.exists()
    path.touch()
    check(path, overwrite=True)
    assert message(check, path) == f"--sheet {path}: exists already (--overwrite replaces it)"
    assert message(check, folder, overwrite=True) == f"--sheet {folder}: is a folder, expected a file"
    other = tmp_path / "a.jpg"
    assert message(check, other) == f"--sheet {other}: expected a file name ending in .png or .webp"
    below = tmp_path / "c" / "a.png"
    assert message(check, below) == f"--sheet {below}: the folder {tmp_path}/c doesn't exist"
