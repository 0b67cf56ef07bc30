"""Checks of outputs before any work: names, folders, permissions, existing files, sizes and frame rates."""

import os
import shutil

import numpy as np
import pytest
from media import NAMES, open_folder, unprivileged

from svdjax.errors import InputError
from svdjax.media.output_plan import check_fps, plan_output
from svdjax.media.video import write_video


@pytest.mark.parametrize(
    ("name", "output_format"),
    [
        ("a.mp4", ".mp4"), ("A.MP4", ".mp4"), ("a.Gif", ".gif"), ("a.webp", ".webp"), ("a", "folder"),
        ("a.mp4/", "folder"), ("v1.2/", "folder"), ("b/../a.gif", ".gif"), (".hidden", "folder"),
    ],
)  # fmt: skip
def test_the_ending_determines_the_format(tmp_path, name, output_format):
    (tmp_path / "b").mkdir()
    assert plan_output(f"{tmp_path}/{name}").format == output_format
    assert sorted(os.listdir(tmp_path)) == ["b"]


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        plan_output(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "can't be written (/" not in message  # a message inside another message
    return message


def test_refused_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.avi", "a.png", "a.mp4.part", "a."):
        assert f"{name}: unknown ending .{name.split('.')[-1]}, expected .mp4, .gif, .webp" in refusal(name)
    assert "name is empty" in refusal("")
    assert "expected a name before .MP4" in refusal(".MP4")
    assert refusal("x" * 300 + ".mp4").endswith(": file name too long")
    with pytest.raises(InputError, match="not a possible file name"):
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


def test_links_and_devices_as_output(tmp_path):
    (tmp_path / "a.mp4").symlink_to("nowhere")
    (tmp_path / "frames").symlink_to("nowhere")
    for name in ("a.mp4", "frames", "frames/"):
        for overwrite in (False, True):
            message = refusal(f"{tmp_path}/{name}", overwrite=overwrite)
            assert message == f"{tmp_path}/{name}: is a link to nowhere, which doesn't exist"
    os.mkfifo(tmp_path / "b.mp4")
    assert "is not a regular file" in refusal(tmp_path / "b.mp4", overwrite=True)


def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    assert "is a folder, expected a file" in refusal(tmp_path / "a.mp4", overwrite=True)
    (tmp_path / "frames").write_text("kept")
    assert "is a file" in refusal(tmp_path / "frames", overwrite=True)
    assert (tmp_path / "frames").read_text() == "kept"


@pytest.mark.parametrize("other", ["notes.txt", "0000.jpg", "frame0000.png", "a0000.png.bak"])
def test_a_folder_with_other_files_is_never_touched(tmp_path, other):
    folder = write_video(plan_output(tmp_path / "frames"), np.zeros((1, 2, 2, 3), np.uint8), 7)
    (folder / other).write_text("kept")
    assert f"holds other files than frames ({other})" in refusal(folder, overwrite=True)
    assert sorted(os.listdir(folder)) == sorted(["0000.png", other])


def test_a_folder_with_the_name_of_a_frame_is_not_a_frame(tmp_path):
    (tmp_path / "frames" / "0000.png").mkdir(parents=True)
    assert "holds other files than frames (0000.png)" in refusal(tmp_path / "frames", overwrite=True)


def test_a_folder_of_more_than_10000_frames_may_be_replaced(tmp_path):
    folder = write_video(plan_output(tmp_path / "many"), np.zeros((1, 2, 2, 3), np.uint8), 7)
    shutil.copy(folder / "0000.png", folder / "10000.png")
    assert plan_output(folder, overwrite=True).format == "folder"


def test_sizes_outside_the_limits_of_a_format(tmp_path):
    assert "frames of 17x16, but the sides of .mp4 must be even" in refusal(tmp_path / "a.mp4", size=(17, 16))
    assert "a side of .webp is at most 16383" in refusal(tmp_path / "a.webp", size=(16384, 16))
    assert "a side of .mp4 is at most 16384" in refusal(tmp_path / "a.mp4", size=(16, 16386))
    plan_output(tmp_path / "a.gif", size=(17, 15))
    with pytest.raises(InputError, match="must be even"):
        write_video(plan_output(tmp_path / "a.mp4"), np.zeros((2, 16, 17, 3), np.uint8), 7)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [0, -1, True, "x", None, 1001])
def test_invalid_frame_rates(tmp_path, fps):
    with pytest.raises(InputError, match=r"fps is .*, expected a number (above 0|from 0\.01 to 1000)"):
        check_fps(fps)
    with pytest.raises(InputError, match="fps is"):
        write_video(plan_output(tmp_path / "a.mp4"), np.zeros((2, 16, 16, 3), np.uint8), fps)
