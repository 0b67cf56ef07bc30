"""Outputs: refused before any work, replaced only when told, whole or not there at all."""

import dataclasses
import os
import resource
import shutil
import signal

import numpy as np
import pytest
from media import NAMES, moving_photo, open_folder, read_clip, unprivileged

from svdjax.errors import InputError
from svdjax.media.video import KINDS, check_fps, plan_output, read_metadata, write_video


@pytest.fixture(scope="module")
def photo():
    return moving_photo()


def test_a_folder_of_more_than_10000_frames_is_known_as_one(tmp_path):
    folder = write_video(plan_output(tmp_path / "many"), np.zeros((1, 2, 2, 3), np.uint8), 7)
    shutil.copy(folder / "0000.png", folder / "10000.png")
    assert plan_output(folder, overwrite=True).kind == "folder"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mp4", ".mp4"), ("A.MP4", ".mp4"), ("a.Gif", ".gif"), ("a.webp", ".webp"), ("a", "folder"),
        ("a.mp4/", "folder"), ("v1.2/", "folder"), ("b/../a.gif", ".gif"), (".hidden", "folder"),
    ],
)  # fmt: skip
def test_the_ending_names_the_kind(tmp_path, name, kind):
    (tmp_path / "b").mkdir()
    assert plan_output(f"{tmp_path}/{name}").kind == kind
    assert sorted(os.listdir(tmp_path)) == ["b"]


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        plan_output(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "can't be written (/" not in message  # one message wrapped in another
    return message


def test_refused_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.avi", "a.png", "a.mp4.part", "a."):
        assert f"{name}: unknown ending .{name.split('.')[-1]}, expected .mp4, .gif, .webp" in refusal(name)
    assert "name is empty" in refusal("")
    assert "expected a name before .MP4" in refusal(".MP4")
    assert "can't be written" in refusal("x" * 300 + ".mp4")
    with pytest.raises(InputError, match="no file can have this name"):
        plan_output("nul\0.mp4")
    assert os.listdir() == []


@pytest.mark.parametrize("name", NAMES)
def test_the_parent_must_be_a_folder(tmp_path, name):
    assert f"the folder {tmp_path}/no doesn't exist" in refusal(f"{tmp_path}/no/{name}")
    (tmp_path / "file").write_text("kept")
    assert f"{tmp_path}/file is a file, expected a folder" in refusal(f"{tmp_path}/file/{name}")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", NAMES)
def test_no_permission_to_write(name):
    with open_folder() as folder:
        (folder / "full").mkdir()
        with unprivileged():
            assert refusal(folder / name).endswith(": no permission to write there")
            assert refusal(f"{folder}/full/").endswith(": no permission to write there")
        assert os.listdir(folder) == ["full"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp"])
def test_an_existing_file_is_replaced_only_when_told(tmp_path, photo, name):
    path = tmp_path / name
    path.write_text("kept")
    assert refusal(path).endswith(": already exists (--overwrite replaces it)")
    assert path.read_text() == "kept"
    plan = plan_output(path, overwrite=True)
    assert path.read_text() == "kept"
    write_video(plan, photo, 7)
    assert read_clip(path)[0].shape == photo.shape


def test_links_and_devices_as_output(tmp_path):
    (tmp_path / "a.mp4").symlink_to("nowhere")
    assert "already exists" in refusal(tmp_path / "a.mp4")
    os.mkfifo(tmp_path / "b.mp4")
    assert "is not a regular file" in refusal(tmp_path / "b.mp4", overwrite=True)


def test_a_folder_where_a_file_belongs_and_a_file_where_a_folder_belongs(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    assert "is a folder, expected a file" in refusal(tmp_path / "a.mp4", overwrite=True)
    (tmp_path / "frames").write_text("kept")
    assert "is a file" in refusal(tmp_path / "frames", overwrite=True)
    assert (tmp_path / "frames").read_text() == "kept"


def test_an_existing_folder(tmp_path, photo):
    folder = tmp_path / "frames"
    folder.mkdir()
    inode = folder.stat().st_ino
    write_video(plan_output(folder), photo, 7)  # empty: nothing to lose
    assert refusal(folder).endswith(": already exists (--overwrite replaces it)")
    write_video(plan_output(folder, overwrite=True), photo[:3, ::-1], 7)
    np.testing.assert_array_equal(read_clip(folder)[0], photo[:3, ::-1])  # and none of the 9 earlier frames
    assert folder.stat().st_ino == inode
    assert os.listdir(tmp_path) == ["frames"]


def test_a_link_to_a_folder_stays_one(tmp_path, photo):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_video(plan_output(tmp_path / "link"), photo, 7)
    assert (tmp_path / "link").is_symlink()
    assert read_clip(tmp_path / "real")[0].shape == photo.shape


@pytest.mark.parametrize("other", ["notes.txt", "0000.jpg", "frame0000.png", "a0000.png.bak"])
def test_a_folder_that_holds_anything_else_is_never_touched(tmp_path, photo, other):
    folder = write_video(plan_output(tmp_path / "frames"), photo[:1], 7)
    (folder / other).write_text("kept")
    assert f"holds something else than frames ({other})" in refusal(folder, overwrite=True)
    assert sorted(os.listdir(folder)) == sorted(["0000.png", other])


def test_a_folder_named_like_a_frame_is_something_else(tmp_path):
    (tmp_path / "frames" / "0000.png").mkdir(parents=True)
    assert "holds something else than frames (0000.png)" in refusal(tmp_path / "frames", overwrite=True)


@pytest.mark.parametrize("name", NAMES)
def test_what_appears_while_the_work_goes_on_is_kept(tmp_path, photo, name):
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
def test_nothing_is_left_behind_by_a_failure(tmp_path, photo, name, error, before, monkeypatch):
    path = tmp_path / name
    if before:
        write_video(plan_output(path), photo[:2], 7, {"which": "earlier"})
    writer = KINDS[plan_output(path, overwrite=True).kind].write

    def fail_after_writing(*args):
        writer(*args)
        raise error

    plan = plan_output(path, overwrite=True)
    monkeypatch.setitem(KINDS, plan.kind, dataclasses.replace(KINDS[plan.kind], write=fail_after_writing))
    with pytest.raises(error):
        write_video(plan, photo, 7)
    assert os.listdir(tmp_path) == ([name] if before else [])
    if before:
        assert read_clip(path)[0].shape == photo[:2].shape
        assert read_metadata(path) == {"which": "earlier"}


@pytest.mark.parametrize("fail_at", range(1, 12))
def test_an_interrupt_while_frames_are_exchanged_brings_the_earlier_ones_back(tmp_path, photo, fail_at, monkeypatch):
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
    """A limit on the size of files stands in for a disk that is full."""
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


def test_files_get_the_permissions_that_the_user_s_mask_gives(tmp_path, photo):
    before = os.umask(0o027)
    try:
        for name in NAMES:
            path = write_video(plan_output(tmp_path / name), photo, 7)
            assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)
    finally:
        os.umask(before)


def test_sizes_that_a_format_cannot_hold_are_refused_in_time(tmp_path):
    assert "frames of 17x16, but the sides of .mp4 must be even" in refusal(tmp_path / "a.mp4", size=(17, 16))
    assert "a side of .webp is at most 16383" in refusal(tmp_path / "a.webp", size=(16384, 16))
    assert "a side of .mp4 is at most 16384" in refusal(tmp_path / "a.mp4", size=(16, 16386))
    plan_output(tmp_path / "a.gif", size=(17, 15))
    with pytest.raises(InputError, match="must be even"):
        write_video(plan_output(tmp_path / "a.mp4"), np.zeros((2, 16, 17, 3), np.uint8), 7)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [0, -1, 7.0, 7.5, True, "7", None, 1001])
def test_frame_rates_that_are_none(tmp_path, fps):
    with pytest.raises(InputError, match=r"fps is .*, expected a whole number from 1 to 1000"):
        check_fps(fps)
    with pytest.raises(InputError, match="fps is"):
        write_video(plan_output(tmp_path / "a.mp4"), np.zeros((2, 16, 16, 3), np.uint8), fps)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 16, 16, 3), float), ((16, 16, 3), np.uint8), ((2, 16, 16, 4), np.uint8), ((0, 16, 16, 3), np.uint8)],
)
def test_frames_of_another_dtype_or_shape(tmp_path, shape, dtype):
    frames = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="expected uint8"):
        write_video(plan_output(tmp_path / "a.mp4"), frames, 7)
