"""The manifest: the same pairs again from the same videos, and one line for everything that differs."""

import shutil

import numpy as np
import pytest
import videos
from PIL import Image

from sample.evaluation import keyframe_pairs
from sample.video_pairs import manifest
from sample.video_pairs.cut_list import CutRule
from svdjax.data.sources import DataSettings
from svdjax.errors import InputError


def settings(folder):
    return DataSettings(folder=folder, num_frames=4, size=(32, 16))


@pytest.fixture
def written(tmp_path):
    """Pairs of a video and of a folder of frames, and their manifest."""
    data = tmp_path / "data"
    videos.write_video(data / "sub" / "a.mp4", videos.coded_frames(70), crf=0)
    videos.write_frames(data / "b", videos.coded_frames(11))
    pairs = keyframe_pairs.of_folder(settings(data), 5, 0, CutRule({}, "none")).pairs
    rows = [manifest.row(p.name, p.clip, settings(data), "none", manifest.hashes(p.read())) for p in pairs]
    manifest.write(rows, tmp_path / "pairs.csv")
    return data, pairs


def test_round_trip(written, tmp_path):
    """In another folder, with another video beside, and from a late window of a longer video (which is read by seeking)."""
    data, pairs = written
    assert max(pair.clip.start for pair in pairs) >= 48
    moved = tmp_path / "elsewhere"
    shutil.move(data, moved)
    videos.write_frames(moved / "a", videos.coded_frames(20))
    given = manifest.read(tmp_path / "pairs.csv")
    assert (given.gap, given.stride, given.size, given.fit) == (3, 1, (32, 16), "crop")
    again = keyframe_pairs.of_manifest(settings(moved), 4, given).pairs
    assert [(p.name, p.title, p.origin) for p in again] == [(p.name, p.title, p.origin) for p in pairs[:4]]
    for pair in again:
        assert manifest.hashes(pair.read()) == {name: given.rows[pair.name][name] for name in manifest._HASHES}


def test_other_pixels(written, tmp_path):
    data, _ = written
    given = manifest.read(tmp_path / "pairs.csv")
    pairs = keyframe_pairs.of_manifest(settings(data), 5, given).pairs
    of_frames = next(pair for pair in pairs if pair.clip.source.name == "b")
    of_frames.read()
    name = data / "b" / f"{of_frames.clip.start + 1}.png"
    pixels = np.array(Image.open(name))
    pixels[12, 0] ^= 1  # neither of the keyframes
    Image.fromarray(pixels).save(name)
    with pytest.raises(InputError, match=rf"data/b: pair {of_frames.name} has other pixels .* \(another file: SHA-256 "):
        of_frames.read()


def test_another_decoder(written, tmp_path, monkeypatch):
    data, _ = written
    given = manifest.read(tmp_path / "pairs.csv")
    pair = keyframe_pairs.of_manifest(settings(data), 1, given).pairs[0]
    read = manifest.read_clip
    monkeypatch.setattr(manifest, "read_clip", lambda *args: read(*args) ^ 1)
    monkeypatch.setattr(manifest, "decoder", lambda: "av 99")
    with pytest.raises(InputError, match=r"has other pixels than in the manifest \(decoded with av 99, the manifest with av "):
        pair.read()


def change(column, value, line=1):
    def changed(lines):
        cells = lines[line].split(",")
        cells[manifest.COLUMNS.index(column)] = value
        return [*lines[:line], ",".join(cells), *lines[line + 1 :]]

    return changed


WRONG = {
    "no column": (lambda lines: [lines[0].replace(",gap", ",gab"), *lines[1:]], "lacks the column gap"),
    "a gap of 1": (change("gap", "1"), "line 2: gap is '1', expected a number of at least 2"),
    "another size": (change("width", "64", 2), "line 3: width is 64, expected 32 as in the first row"),
    "no hash": (change("clip_sha256", "abc"), "line 2: clip_sha256 is 'abc', expected 64"),
    "a path for a name": (change("pair", "../0001"), "pair is '../0001'"),
    "another fit": (change("fit", "squash"), "fit is 'squash'"),
    "a short line": (lambda lines: [*lines[:2], "0001,b"], "line 3: has too few values"),
    "twice the same": (lambda lines: [*lines, lines[1]], "has 5 different pairs in 6 rows"),
    "one pair": (lambda lines: lines[:2], "expected at least 2"),
}


@pytest.mark.parametrize(("damage", "said"), WRONG.values(), ids=WRONG)
def test_damaged(damage, said, written, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(damage(file.read_text().splitlines())))
    with pytest.raises(InputError) as error:
        manifest.read(file)
    assert str(error.value).startswith(f"--manifest {file}: ")
    assert said in str(error.value)


def test_a_missing_video(written, tmp_path):
    data, _ = written
    (data / "sub" / "a.mp4").unlink()
    with pytest.raises(InputError, match=r"has no sub/a.mp4, expected it for pair"):
        keyframe_pairs.of_manifest(settings(data), 5, manifest.read(tmp_path / "pairs.csv"))
