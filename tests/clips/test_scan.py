"""Scan of a folder: search, motion, hold-out, report, and the result as JSON for other processes."""

import csv

import numpy as np
import pytest
import videos
from PIL import Image

from svdjax.data.discover import find_sources
from svdjax.data.report import COLUMNS, summary, write_csv
from svdjax.data.scan import ScanResult, scan
from svdjax.data.sources import DataSettings
from svdjax.errors import InputError

SIZE = videos.SIZE


def settings(folder, **changes):
    return DataSettings(**{"folder": folder, "num_frames": 4, "size": SIZE, **changes})


# Search


def test_sources_in_a_folder(tmp_path):
    frames = videos.coded_frames(2)
    for folder in ("b/take10", "b/take9", "."):
        videos.write_frames(tmp_path / folder, frames)
    for name in ("clip10.mp4", "clip9.MP4", "b/x.webm", "b/README"):
        (tmp_path / name).write_bytes(b"?")
    for name in (".hidden.mp4", "notes.txt", "b/labels.json", ".git/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    candidates, ignored = find_sources(tmp_path)
    assert [(c.name, c.kind) for c in candidates] == [
        (".", "frames"),
        ("b/README", "video"),
        ("b/take9", "frames"),
        ("b/take10", "frames"),
        ("b/x.webm", "video"),
        ("clip9.MP4", "video"),
        ("clip10.mp4", "video"),
    ]
    assert ignored == 3


# Motion


def shifted(count, levels):
    """Grey frames, each `levels` brighter than the previous frame."""
    return np.stack([np.full((96, 64, 3), 10 + i * levels, np.uint8) for i in range(count)])


def test_motion_of_known_changes(tmp_path):
    source = videos.source(videos.write_frames(tmp_path / "a", shifted(9, 5)), "frames", 3, 2)
    assert source.motion == 10
    assert source.starts == ((0, 5),)
    # A white square of 1/4 of the black picture jumps to another quarter: half of the pixels change by 255.
    square = np.zeros((2, 64, 64, 3), np.uint8)
    square[0, :32, :32] = square[1, 32:, :32] = 255
    assert videos.source(videos.write_frames(tmp_path / "b", square), "frames").motion == 127.5
    # For colours the luma counts: BT.601's weight of blue is 0.114.
    blue = np.zeros((2, 8, 8, 3), np.uint8)
    blue[1, ..., 2] = 255
    assert videos.source(videos.write_frames(tmp_path / "c", blue), "frames").motion == pytest.approx(0.114 * 255, abs=0.5)


def test_fine_texture_is_not_motion(tmp_path):
    """A checkerboard that moves by one pixel: constant after the reduction to 64 rows."""
    y, x = np.mgrid[:512, :512]
    board = np.where((x + y) % 2, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    assert videos.source(videos.write_frames(tmp_path / "a", [board, 255 - board]), "frames").motion == 0


def test_still_parts_give_no_clips(tmp_path):
    """10 still frames, 5 changes by 20, 10 still frames: clips of 4 frames (3 changes) have a mean of 20, 13.3, 6.7 or 0."""
    moving = shifted(6, 20)
    frames = [*[moving[0]] * 10, *moving[1:5], *[moving[5]] * 10]
    folder = videos.write_frames(tmp_path / "a", frames)
    for least, starts in ((0, (0, 21)), (6, (7, 14)), (13, (8, 13)), (20, (9, 12))):
        assert videos.source(folder, "frames", 4, 1, least).starts == (starts,)
    twice = videos.write_frames(tmp_path / "b", [*frames, *frames])
    source = videos.source(twice, "frames", 4, 1, 20)
    # Between the two copies is a jump of 100, which 3 clips contain.
    assert source.starts == ((9, 12), (21, 24), (33, 36))
    assert [source.start(i) for i in range(source.clips)] == [9, 10, 11, 21, 22, 23, 33, 34, 35]
    with pytest.raises(IndexError):
        source.start(9)


# Result


@pytest.fixture
def three(tmp_path):
    for name in ("a", "b", "c"):
        videos.write_frames(tmp_path / name, videos.coded_frames(6))
    videos.write_frames(tmp_path / "d", videos.coded_frames(2))
    return tmp_path


def test_the_last_sources_are_held_out(three):
    result = scan(settings(three, hold_out=2))
    assert [s.name for s in result.usable] == ["a"]
    assert [s.name for s in result.held_out] == ["b", "c"]
    assert "held out: b, c" in summary(result, settings(three))
    with pytest.raises(InputError, match=r"--hold-out 3: .* has 3 usable sources, expected at least 4"):
        scan(settings(three, hold_out=3))


def test_json_round_trip_and_another_mount(three, tmp_path):
    result = scan(settings(three, hold_out=1))
    text = result.to_json()
    assert "\n" not in text
    assert str(three) not in text
    assert ScanResult.from_json(text, three) == result
    elsewhere = ScanResult.from_json(text, "/mnt/data")
    assert [s.path for s in elsewhere.usable] == ["/mnt/data/a", "/mnt/data/b"]
    assert elsewhere.fingerprint == result.fingerprint
    assert elsewhere.to_json() == text


def test_the_fingerprint_changes_with_the_data(three):
    def fingerprint(**changes):
        return scan(settings(three, **changes)).fingerprint

    before = fingerprint()
    assert fingerprint() == before == scan(settings(three), 2).fingerprint
    assert fingerprint(hold_out=1) != before
    assert fingerprint(stride=2, num_frames=2) != before
    pixels = videos.coded_frames(6)[3].copy()
    pixels[0, 0] = 1
    original = (three / "b" / "3.png").read_bytes()
    Image.fromarray(pixels).save(three / "b" / "3.png")
    changed = fingerprint()
    assert changed != before
    (three / "b" / "3.png").write_bytes(original)
    assert fingerprint() == before
    (three / "b").rename(three / "bb")
    assert fingerprint() not in (before, changed)


def test_the_table(three, tmp_path):
    result = scan(settings(three, hold_out=1))
    path = tmp_path / "data.csv"
    path.write_text("old")
    write_csv(result, path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert [(r["name"], r["used"], r["frames"], r["clips"]) for r in rows] == [
        ("a", "training", "6", "3"),
        ("b", "training", "6", "3"),
        ("c", "held out", "6", "3"),
        ("d", "skipped", "2", "0"),
    ]
    assert rows[3]["reason"] == "too short: 2 frames, a clip of 4 at stride 1 needs 4"
    assert rows[0]["motion"] == str(result.usable[0].motion)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match=r"nowhere/data\.csv: can't be written"):
        write_csv(result, tmp_path / "nowhere" / "data.csv")


def test_the_summary_describes_fitting(three):
    assert not [line for line in summary(scan(settings(three)), settings(three)) if line.startswith("fit")]
    other = settings(three, size=(24, 24))
    line = next(line for line in summary(scan(other), other) if line.startswith("fit"))
    assert line == "fit: 3 of 3 sources change, such as a 32x24: cropped to 24x24, 25% of its width cut"
