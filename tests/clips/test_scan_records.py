"""Records of a scan: unchanged sources are not read again, changed ones are, and the result is the same as without records."""

import os
import shutil

import pytest
import videos
from PIL import Image

from svdjax.data import scan_records
from svdjax.data.motion import UNREADABLE
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings


def settings(folder, **changes):
    return DataSettings(**{"folder": folder, "num_frames": 4, "size": videos.SIZE, **changes})


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    videos.write_video(folder / "a.mp4", videos.coded_frames(9))
    videos.write_gif(folder / "b.gif", videos.coded_frames(9))
    videos.write_frames(folder / "c", videos.coded_frames(9))
    videos.write_frames(folder / os.fsdecode(b"caf\xe9"), videos.coded_frames(9))
    videos.write_frames(folder / "short", videos.coded_frames(2))
    (folder / "damaged.mp4").write_bytes(b"?")
    return folder


NAMES = ["a.mp4", "b.gif", "c", os.fsdecode(b"caf\xe9"), "damaged.mp4", "short"]


@pytest.fixture
def rescan(data, tmp_path, monkeypatch):
    """Scan with the records of the last scan; returns the names of the sources that were read."""
    read = []

    def measure(candidate, *limits):
        read.append(candidate.name)
        return measure_source(candidate, *limits)

    from svdjax.data.motion import measure_source

    monkeypatch.setattr("svdjax.data.scan.measure_source", measure)

    def rescan(**changes):
        read.clear()
        records = scan_records.read(tmp_path / "scan.json")
        result = scan(settings(data, **changes), records=records)
        scan_records.write(records, tmp_path / "scan.json")
        names = sorted(read)
        assert result == scan(settings(data, **changes))
        return names

    return rescan


def test_unchanged(rescan):
    assert rescan() == NAMES
    assert rescan() == ["damaged.mp4"]  # the reason may be gone
    assert rescan(hold_out=1) == ["damaged.mp4"]
    assert rescan(stride=2, num_frames=2) == NAMES


def test_interrupted(data, monkeypatch):
    """The sources that were read before Ctrl-C have records."""
    from svdjax.data.motion import measure_source

    def measure(candidate, *limits):
        if candidate.name == "c":
            raise KeyboardInterrupt
        return measure_source(candidate, *limits)

    monkeypatch.setattr("svdjax.data.scan.measure_source", measure)
    records = scan_records.ScanRecords()
    with pytest.raises(KeyboardInterrupt):
        scan(settings(data), records=records)
    assert [found["name"] for found in records.found.values()] == ["a.mp4", "b.gif"]
    again = scan_records.ScanRecords(records.found)
    with pytest.raises(KeyboardInterrupt):
        scan(settings(data), records=again)
    assert again.found == records.found


def touched(path):
    os.utime(path)


def rewritten(path):
    """With other content of the same length at the same time."""
    state = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replaced(path):
    """By a copy with its time."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


@pytest.mark.parametrize("change", [touched, rewritten, replaced])
def test_changed_files(rescan, data, change):
    rescan()
    change(data / "b.gif")
    assert rescan() == ["b.gif", "damaged.mp4"]
    change(data / "c" / "3.png")
    assert rescan() == ["c", "damaged.mp4"]


def test_other_files(rescan, data):
    rescan()
    Image.fromarray(videos.coded_frames(1)[0]).save(data / "c" / "9.png")
    assert rescan() == ["c", "damaged.mp4"]
    (data / "c" / "9.png").unlink()
    assert rescan() == ["c", "damaged.mp4"]
    (data / "b.gif").rename(data / "bb.gif")
    assert rescan() == ["bb.gif", "damaged.mp4"]
    (data / "a.mp4").unlink()
    (data / "a.mp4").symlink_to(data / "bb.gif")
    assert rescan() == ["a.mp4", "damaged.mp4"]


def test_other_code_reads_again(rescan, monkeypatch):
    rescan()
    monkeypatch.setattr(scan_records, "_code", lambda: "changed")
    assert rescan() == NAMES


@pytest.mark.parametrize("content", ["", "{", "[]", '{"records": 3}', '{"records": {}}', "\0" * 99])
def test_damaged_records(rescan, tmp_path, content):
    rescan()
    (tmp_path / "scan.json").write_text(content)
    assert rescan() == NAMES


@pytest.mark.parametrize(("old", "new"), [('"width"', '"wide"'), ('"digest"', '"hash"'), ('"starts": [[', '"starts": [3, [')])
def test_records_of_other_fields(rescan, tmp_path, old, new):
    """As of another version."""
    rescan()
    text = (tmp_path / "scan.json").read_text()
    assert old in text
    (tmp_path / "scan.json").write_text(text.replace(old, new))
    assert rescan()[:4] == NAMES[:4]


def test_only_the_sources_of_the_last_scan_are_kept(rescan, data, tmp_path):
    rescan()
    before = len(scan_records.read(tmp_path / "scan.json").known)
    assert before == len(NAMES) - 1
    (data / "b.gif").unlink()
    rescan()
    assert len(scan_records.read(tmp_path / "scan.json").known) == before - 1


@pytest.mark.parametrize("workers", [0, 1])
def test_any_exception_of_a_reader_skips_its_source(data, monkeypatch, workers):
    """Also one in the process that reads, which imports the reader itself."""
    if workers:
        import worker_tasks

        monkeypatch.setattr("svdjax.data.scan.measure_source", worker_tasks.fail_on_b)
    else:
        monkeypatch.setattr("svdjax.data.animations.frames", lambda *args: "é".encode("latin-1").decode())
    result = scan(settings(data), workers)
    assert [source.name for source in result.usable] == ["a.mp4", "c", NAMES[3]]
    (item,) = [item for item in result.skipped if item.name == "b.gif"]
    assert item.reason == UNREADABLE
    assert "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9" in item.detail
