"""Folders and files appear complete or not at all."""

import pytest

from svdjax.errors import InputError
from svdjax.runtime.atomic import new_file, new_folder, require_space


def is_ours(folder):
    return (folder / "ours").exists()


def write(out, text="new", fail=False, **options):
    with new_folder(out, ours=is_ours, **options) as folder:
        (folder / "ours").write_text(text)
        if fail:
            raise KeyboardInterrupt


def test_folder_appears_complete(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(out, fail=True)
    assert not list(tmp_path.iterdir())
    write(out, "first")
    with pytest.raises(InputError, match=r"out: exists already \(--overwrite replaces it\)"):
        write(out)
    with pytest.raises(KeyboardInterrupt):
        write(out, overwrite=True, fail=True)
    assert (out / "ours").read_text() == "first"
    write(out, overwrite=True)
    assert (out / "ours").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_other_folders_are_not_replaced(tmp_path):
    with pytest.raises(InputError, match="was not written by this command"):
        write(tmp_path, overwrite=True)
    with pytest.raises(InputError, match=r"/a/b: the folder .*/a doesn't exist"):
        write(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_file_appears_complete(tmp_path):
    out = tmp_path / "out"
    out.write_text("old")

    def write(error=None, **options):
        with new_file(out, **options) as temporary:
            temporary.write_text("new")
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    with pytest.raises(InputError) as e:
        write(OSError(28, "No space left on device"), name="--json out")
    assert str(e.value) == "--json out: can't be written: No space left on device"
    assert out.read_text() == "old"
    write()
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_space(tmp_path):
    require_space(tmp_path, 1, tmp_path)
    with pytest.raises(InputError, match=r": needs 1024 TiB of disk space, \d[\d.]* .iB are free"):
        require_space(tmp_path, 2**50, tmp_path)
