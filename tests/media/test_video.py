"""Writing of outputs: replaced only on request, and either complete or absent."""

import dataclasses
import os
import resource
import signal

import numpy as np
import pytest
from media import NAMES, moving_photo, read_clip

from svdjax.errors import InputError
from svdjax.media.output_plan import plan_output
from svdjax.media.video import read_metadata, write_video
from svdjax.media.video_formats import OUTPUT_FORMATS


@pytest.fixture(scope="module")
def photo():
    return moving_photo()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_an_existing_file_is_replaced_only_on_request(tmp_path, photo, name):
    path = tmp_path / name
    path.write_text("kept")
    with pytest.raises(InputError, match=r": exists already \(--overwrite replaces it\)$"):
        plan_output(path)
    assert path.read_text() == "kept"
    plan = plan_output(path, overwrite=True)
    assert path.read_text() == "kept"
    write_video(plan, photo, 7)
    assert read_clip(path)[0].shape == photo.shape


def test_an_existing_folder(tmp_path, photo):
    folder = tmp_path / "frames"
    folder.mkdir()
    inode = folder.stat().st_ino
    write_video(plan_output(folder), photo, 7)  # an empty folder may be used
    with pytest.raises(InputError, match=r": exists already \(--overwrite replaces it\)$"):
        plan_output(folder)
    write_video(plan_output(folder, overwrite=True), photo[:3, ::-1], 7)
    np.testing.assert_array_equal(read_clip(folder)[0], photo[:3, ::-1])  # without the 9 earlier frames
    assert folder.stat().st_ino == inode
    assert os.listdir(tmp_path) == ["frames"]


def test_a_link_to_a_folder_stays_one(tmp_path, photo):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_video(plan_output(tmp_path / "link"), photo, 7)
    assert (tmp_path / "link").is_symlink()
    assert read_clip(tmp_path / "real")[0].shape == photo.shape


@pytest.mark.parametrize("name", NAMES)
def test_files_that_appear_during_the_work_are_kept(tmp_path, photo, name):
    plan = plan_output(tmp_path / name)
    path = tmp_path / name
    if name == "clip":
        path.mkdir()
        path = path / "notes.txt"
    path.write_text("kept")
    with pytest.raises(InputError):
        write_video(plan, photo, 7)
    assert path.read_text() == "kept"
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path, photo, name, error, before, monkeypatch):
    path = tmp_path / name
    if before:
        write_video(plan_output(path), photo[:2], 7, {"which": "earlier"})
    writer = OUTPUT_FORMATS[plan_output(path, overwrite=True).format].write

    def fail_after_writing(*args):
        writer(*args)
        raise error

    plan = plan_output(path, overwrite=True)
    failing = dataclasses.replace(OUTPUT_FORMATS[plan.format], write=fail_after_writing)
    monkeypatch.setitem(OUTPUT_FORMATS, plan.format, failing)
    with pytest.raises(error):
        write_video(plan, photo, 7)
    assert os.listdir(tmp_path) == ([name] if before else [])
    if before:
        assert read_clip(path)[0].shape == photo[:2].shape
        assert read_metadata(path) == {"which": "earlier"}


@pytest.mark.parametrize("fail_at", range(1, 12))
def test_an_interrupt_while_frames_are_exchanged_restores_the_earlier_frames(tmp_path, photo, fail_at, monkeypatch):
    folder = write_video(plan_output(tmp_path / "frames"), photo[:4], 7)
    plan = plan_output(folder, overwrite=True)
    rename, calls = type(folder).rename, []

    def interrupted(self, target):
        calls.append(self)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(plan, photo[:7, ::-1], 7)
    np.testing.assert_array_equal(read_clip(folder)[0], photo[:4])


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(tmp_path, name):
    """Simulated by a limit on the size of files."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8)
    plan = plan_output(tmp_path / name)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match="can't be written") as caught:
            write_video(plan, frames, 7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert os.listdir(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path, photo):
    before = os.umask(0o027)
    try:
        for name in NAMES:
            path = write_video(plan_output(tmp_path / name), photo, 7)
            assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 16, 16, 3), float), ((16, 16, 3), np.uint8), ((2, 16, 16, 4), np.uint8), ((0, 16, 16, 3), np.uint8)],
)
def test_frames_of_another_dtype_or_shape(tmp_path, shape, dtype):
    frames = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="expected uint8"):
        write_video(plan_output(tmp_path / "a.mp4"), frames, 7)


def test_metadata_that_is_not_utf_8(tmp_path):
    """Bytes of a file name become escapes; all else is read back as it was."""
    plan = plan_output(tmp_path / "a.gif")
    write_video(plan, np.zeros((2, 16, 16, 3), np.uint8), 7, {"image": "caf\udce9.png", "note": "two  spaces\nand a line é"})
    assert read_metadata(plan.path) == {"image": "caf\\xe9.png", "note": "two  spaces\nand a line é"}
