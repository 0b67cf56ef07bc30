"""Windows of videos: no overlap, no scene cut, spread over the videos; cuts from PySceneDetect and from a list."""

import numpy as np
import pytest
import videos

from sample.video_pairs import cut_list
from sample.video_pairs.windows import windows
from svdjax.data.motion import CUT, Skipped, measure_source
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings, Source
from svdjax.errors import InputError
from svdjax.media.scene_cuts import DETECT, CutFinder


def frames(count, level=0):
    """A bright square that moves by one pixel a frame over a ground of the given level."""
    clip = np.full((count, 48, 64, 3), level, np.uint8)
    for i, frame in enumerate(clip):
        frame[10:20, i % 50 : i % 50 + 10] = 255 - level
    return clip


def source(starts, name="a"):
    return Source(
        name=name,
        path=name,
        kind="frames",
        frames=99,
        width=8,
        height=8,
        motion=1.0,
        starts=starts,
        size_in_bytes=1,
        digest="d",
    )


def settings(folder=".", **changes):
    return DataSettings(**({"folder": folder, "num_frames": 5, "size": (64, 48)} | changes))


def spans(clips):
    return sorted((clip.source.name, clip.start) for clip in clips)


@pytest.mark.parametrize(
    ("starts", "stride", "expected"),
    [
        (((0, 16),), 1, [0, 5, 10, 15]),
        (((0, 16),), 2, [0, 9]),
        (((0, 3), (4, 9)), 1, [0, 5]),  # the second range begins within the first window
        (((2, 3), (3, 4), (20, 21)), 1, [2, 20]),
    ],
)
def test_no_overlap(starts, stride, expected):
    clips = windows([source(starts)], settings(stride=stride), 0)
    assert [start for _, start in spans(clips)] == expected


def test_one_window_of_every_video_first():
    sources = [source(((0, 5 * count),), name) for count, name in ((4, "a"), (1, "b"), (2, "c"))]
    clips = windows(sources, settings(), 0)
    names = [clip.source.name for clip in clips]
    assert sorted(names[:3]) == ["a", "b", "c"]
    assert sorted(names[3:5]) == ["a", "c"]
    assert names[5:] == ["a", "a"]
    assert windows(sources, settings(), 0) == clips
    assert spans(windows(sources, settings(), 1)) == spans(clips)
    assert windows(sources, settings(), 1) != clips


def test_listed_cuts(tmp_path):
    """A clip of 5 frames may end before a cut or begin at it."""
    folder = videos.write_frames(tmp_path / "a", frames(20))
    found = scan(settings(tmp_path), cuts={"a": (7,), "other": (3,)}).usable
    assert found[0].starts == ((0, 3), (7, 16))
    assert [start for _, start in spans(windows(found, settings(), 0))] == [0, 7, 12]
    assert scan(settings(tmp_path, stride=2), cuts={"a": (7,)}).usable[0].starts == ((7, 12),)
    skipped = measure_source(videos.Candidate("a", str(folder), "frames"), 5, 1, 0.0, (4, 8, 12, 16))
    assert isinstance(skipped, Skipped)
    assert skipped.reason == CUT
    assert skipped.detail == "4 cuts, no clip of 5 frames between them"


def test_detected_cuts(tmp_path):
    pytest.importorskip("scenedetect", reason="PySceneDetect is not installed")
    clip = np.concatenate([frames(12), frames(9, 200), frames(15, 90)])
    finder = CutFinder()
    for frame in clip:
        finder.add(frame)
    assert finder.cuts() == (12, 21)
    videos.write_video(tmp_path / "a.mp4", clip, crf=10)
    assert scan(settings(tmp_path), cuts=DETECT).usable[0].starts == ((0, 8), (12, 17), (21, 32))


def test_parts_without_motion_are_left_out(tmp_path):
    still = np.repeat(frames(1), 10, 0)
    videos.write_frames(tmp_path / "a", np.concatenate([still, frames(10)]))
    (found,) = scan(settings(tmp_path, min_motion=0.1)).usable
    assert min(clip.start for clip in windows([found], settings(), 0)) > 5
    assert min(clip.start for clip in windows(scan(settings(tmp_path)).usable, settings(), 0)) == 0


def test_a_list_of_cuts(tmp_path):
    file = tmp_path / "cuts.csv"
    file.write_text("video,frame\na.mp4,12\nb/c,3\na.mp4,21\n")
    assert cut_list.parse(str(file)).cuts == {"a.mp4": [12, 21], "b/c": [3]}
    for text, said in (
        ("frame,video\n", "begins with 'frame,video', expected the columns video,frame"),
        ("video,frame\na,1\na,x\n", "line 3 is 'a,x', expected a video and"),
        ("", "begins with ''"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            cut_list.parse(str(file))
    with pytest.raises(InputError, match="can't be read"):
        cut_list.parse(str(tmp_path / "none.csv"))
