"""Clips of other programs: names, missing clips, other sizes and numbers of frames."""

import numpy as np
import pytest
import videos
from PIL import Image

from sample.other_methods import baselines, given_clips
from svdjax.errors import InputError


def test_nearest_in_time():
    """Both ends stay; each frame is the one that is nearest in time, the earlier of two."""
    for own, count in ((2, 3), (3, 5), (8, 25), (16, 25), (25, 25), (49, 25), (50, 25), (25, 9)):
        chosen = given_clips.nearest_in_time(own, count)
        assert (chosen[0], chosen[-1], len(chosen)) == (0, own - 1, count)
        for i, number in enumerate(chosen):
            distances = [abs(j * (count - 1) - i * (own - 1)) for j in range(own)]
            assert number == int(np.argmin(distances))


def test_the_shape_of_the_pairs(tmp_path):
    clip = videos.coded_frames(9)
    videos.write_frames(tmp_path / "0001", clip)
    videos.write_video(tmp_path / "0002.mp4", clip, crf=0)
    found = given_clips.find(tmp_path, ["0001", "0002", "0003"])
    assert sorted(found) == ["0001", "0002"]
    same, note = given_clips.read(found["0001"], (9, 24, 32))
    np.testing.assert_array_equal(same, clip)
    assert note == ""
    for name in found:
        fewer, note = given_clips.read(found[name], (5, 24, 32))
        assert (videos.numbers(fewer), note) == ([0, 2, 4, 6, 8], "9 frames of 32x24")
        more, _ = given_clips.read(found[name], (17, 24, 32))
        assert videos.numbers(more) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]


def test_another_size_is_stretched(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), np.uint8)
    videos.write_frames(tmp_path / "0000", clip)
    wider, note = given_clips.read(given_clips.find(tmp_path, ["0000"])["0000"], (3, 24, 64))
    expected = [Image.fromarray(frame).resize((64, 24), Image.Resampling.LANCZOS) for frame in clip]
    np.testing.assert_array_equal(wider, np.stack(expected))
    assert note == "3 frames of 32x24"


def test_unusable_clips(tmp_path):
    clip = videos.coded_frames(3)
    with pytest.raises(InputError, match=r"has no clip of a pair, expected folders or videos such as 0000\.mp4"):
        given_clips.find(videos.write_frames(tmp_path / "7", clip).parent, ["0000"])
    videos.write_frames(tmp_path / "0000", clip[:1])
    with pytest.raises(InputError, match="has 1 frames, expected at least 2"):
        given_clips.read(given_clips.find(tmp_path, ["0000"])["0000"], (3, 24, 32))
    videos.write_gif(tmp_path / "0000.gif", clip)
    with pytest.raises(InputError, match=r"has 0000 and 0000.gif, expected one clip of pair 0000"):
        given_clips.find(tmp_path, ["0000"])
    Image.new("RGB", (8, 8)).save(tmp_path / "0000" / "1.png")
    (tmp_path / "0000.gif").unlink()
    with pytest.raises(InputError, match="has frames of 32x24 and 8x8, expected one size"):
        given_clips.read(given_clips.find(tmp_path, ["0000"])["0000"], (3, 24, 32))


def test_names(tmp_path):
    videos.write_frames(tmp_path / "0000", videos.coded_frames(2))
    assert given_clips.parse([f"FILM={tmp_path}"], ["dual"]) == {"FILM": tmp_path}
    for word, said in (
        (str(tmp_path), "expected NAME=DIR"),
        (f"dual={tmp_path}", "the name dual is taken"),
        (f"Dual={tmp_path}", "the name Dual is taken"),
        (f"a/b={tmp_path}", "can't name a folder"),
        (f".hidden={tmp_path}", "can't name a folder"),
        (f"FILM={tmp_path}/nothing", "no such folder"),
    ):
        with pytest.raises(InputError, match=said):
            given_clips.parse([word], ["dual", "truth"])


def test_nearest_keyframe():
    first, last = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    assert baselines.nearest_keyframe(first, last, 5)[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1]
    assert baselines.nearest_keyframe(first, last, 4)[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
