"""Unusable data: skipped with a reason, or refused with one line that names it."""

import media
import numpy as np
import pytest
import videos
import worker_tasks

from svdjax.data.motion import MIXED_SIZES, STILL, TOO_SHORT, UNREADABLE
from svdjax.data.report import summary
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings
from svdjax.errors import InputError

SIZE = videos.SIZE


def settings(folder, **changes):
    return DataSettings(**{"folder": folder, "num_frames": 4, "size": SIZE, **changes})


def bad(tmp_path):
    """Write unusable sources of every type; yield each name with the reason and a part of the detail."""
    good = videos.write_video(tmp_path / "good.mp4", videos.coded_frames(30), crf=1)
    whole = good.read_bytes()
    good.unlink()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    yield "cut.mp4", UNREADABLE, "cut short"
    (tmp_path / "headless.mp4").write_bytes(whole[len(whole) // 2 :])
    yield "headless.mp4", UNREADABLE, "can't be read as a video"
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 40)
    yield "text.mp4", UNREADABLE, "can't be read as a video"
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    yield "playlist.mp4", UNREADABLE, "can't be read as a video"
    (tmp_path / "empty.mp4").write_bytes(b"")
    yield "empty.mp4", UNREADABLE, "is empty"
    (tmp_path / "text.gif").write_text("GIF?")
    yield "text.gif", UNREADABLE, "not an animated gif, webp, png or avif"
    gif = videos.write_gif(tmp_path / "cut.gif", media.moving_photo()).read_bytes()
    (tmp_path / "cut.gif").write_bytes(gif[: len(gif) // 2])
    yield "cut.gif", UNREADABLE, "damaged or cut short"
    videos.write_video(tmp_path / "short.mp4", videos.coded_frames(3))
    yield "short.mp4", TOO_SHORT, "3 frames, a clip of 4 at stride 2 needs 7"
    videos.write_frames(tmp_path / "broken", videos.coded_frames(9))
    (tmp_path / "broken" / "5.png").write_bytes((tmp_path / "broken" / "5.png").read_bytes()[:60])
    yield "broken", UNREADABLE, "5.png: the image is damaged"
    videos.write_frames(tmp_path / "one", videos.coded_frames(1))
    yield "one", TOO_SHORT, "1 frames"
    videos.write_frames(tmp_path / "mixed", [*videos.coded_frames(5), *videos.coded_frames(4, (40, 24))])
    yield "mixed", MIXED_SIZES, "frame 0 is 32x24, frame 5 is 40x24"
    videos.write_frames(tmp_path / "still", np.zeros((9, 24, 32, 3), np.uint8))
    yield "still", STILL, "at most 0.00 levels in a clip, --min-motion is 0.5"


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_sources_are_skipped_with_their_reason(tmp_path, workers):
    expected = {name: (reason, words) for name, reason, words in bad(tmp_path)}
    videos.write_frames(tmp_path / "good", videos.coded_frames(9))
    (tmp_path / "notes.txt").write_text("?")
    limits = settings(tmp_path, stride=2, min_motion=0.5)
    result = scan(limits, workers)
    assert [s.name for s in result.usable] == ["good"]
    assert {s.name: s.reason for s in result.skipped} == {name: reason for name, (reason, _) in expected.items()}
    for item in result.skipped:
        assert expected[item.name][1] in item.detail
        assert str(tmp_path) not in item.detail
        assert "\n" not in item.detail
    assert result.ignored == 1
    lines = summary(result, limits)
    assert lines[0].startswith(f"data: 1 source in {tmp_path}, 9 frames, 3 clips of 4 frames at stride 2, motion ")
    assert f"skipped 8, {UNREADABLE}: broken (5.png: the image is damaged" in "\n".join(lines)
    assert " and 5 more" in "\n".join(lines)
    assert lines[-1] == "ignored 1 file of other types"
    (tmp_path / "good" / "0.png").unlink()
    for i in range(1, 9):
        (tmp_path / "good" / f"{i}.png").unlink()
    with pytest.raises(InputError, match=f"^{tmp_path}: 12 videos or folders of frames found, none usable: 8 are unreadable"):
        scan(limits, workers)


def test_a_worker_that_dies_loses_only_its_source(tmp_path, monkeypatch):
    for name in "abc":
        videos.write_frames(tmp_path / name, videos.coded_frames(5))
    monkeypatch.setattr("svdjax.data.scan.measure_source", worker_tasks.die_on_b)
    result = scan(settings(tmp_path), 1)
    assert [s.name for s in result.usable] == ["a", "c"]
    assert [(s.name, s.reason) for s in result.skipped] == [("b", UNREADABLE)]
    assert "killed" in result.skipped[0].detail


def test_folders_without_permission():
    with media.open_folder() as folder:
        videos.write_frames(folder / "a", videos.coded_frames(5))
        videos.write_frames(folder / "b", videos.coded_frames(5)).chmod(0)
        with media.unprivileged():
            result = scan(settings(folder))
            (item,) = result.skipped
            assert ([s.name for s in result.usable], item.name, item.reason) == (["a"], "b", UNREADABLE)
            assert item.detail == "can't be read (Permission denied)"
            with pytest.raises(InputError, match=r"/b: can't be read \(Permission denied\)$"):
                scan(settings(folder / "b"))
            with pytest.raises(InputError, match="/b/c: no such folder"):
                scan(settings(folder / "b" / "c"))


def test_folders_without_data(tmp_path):
    for folder, message in (
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "empty", "the folder is empty"),
        (tmp_path / "texts", r"no videos and no images in it \(2 other files\)"),
    ):
        (tmp_path / "file").write_text("?")
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "texts").mkdir(exist_ok=True)
        for name in ("a.txt", ".b"):
            (tmp_path / "texts" / name).write_text("?")
        with pytest.raises(InputError, match=f"^{folder}: {message}"):
            scan(settings(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 1}, "--num-frames is 1, expected at least 2"),
        ({"stride": 0}, "--stride is 0, expected at least 1"),
        ({"hold_out": -1}, "--hold-out is -1, expected at least 0"),
        ({"size": (32, 0)}, "--size is 0, expected at least 1"),
        ({"min_motion": float("nan")}, "--min-motion is nan, expected a number of at least 0"),
        ({"min_motion": -1}, "--min-motion is -1, expected a number of at least 0"),
        ({"fit": "squash"}, "--fit is 'squash', expected one of crop, pad, stretch"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        settings(".", **change)
