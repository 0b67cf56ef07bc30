"""Sources: frames of every format, upright and in the right colours; clips; additional kinds of sources."""

import dataclasses
from fractions import Fraction

import av
import media
import numpy as np
import pytest
import videos
from PIL import Image

from svdjax.data.discover import Candidate, find_sources
from svdjax.data.motion import Skipped, measure_source
from svdjax.data.readers import READERS, read_clip, read_frames, reader
from svdjax.data.sources import Clip, Source
from svdjax.errors import InputError
from svdjax.media.fit import fit
from svdjax.media.output_plan import plan_output
from svdjax.media.video import write_video

SIZE = videos.SIZE


def all_frames(path, kind="video"):
    return np.stack([pixels() for pixels in reader(kind).frames(str(path))])


def encoders():
    missing = {"libvpx-vp9", "libx264", "mpeg4", "mjpeg"} - av.codecs_available
    assert not missing, f"this FFmpeg lacks {missing}"
    return [
        ("b.mp4", {"codec": "libx264", "bf": 3, "g": 20}),
        ("open.mkv", {"codec": "libx264", "bf": 3, "g": 20, "x264-params": "open-gop=1"}),
        ("refresh.mp4", {"codec": "libx264", "g": 20, "x264-params": "intra-refresh=1"}),
        ("c.webm", {"codec": "libvpx-vp9", "g": 30, "deadline": "realtime", "cpu-used": 8}),
        ("d.avi", {"codec": "mpeg4", "bf": 2}),
        ("e.mov", {"codec": "mjpeg", "color_range": "pc", "strict": "unofficial"}),
    ]


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """130 numbered frames in every format."""
    folder = tmp_path_factory.mktemp("coded")
    frames = videos.coded_frames(130)
    files = {name: videos.write_video(folder / name, frames, **options) for name, options in encoders()}
    files["f.gif"] = videos.write_gif(folder / "f.gif", frames)
    files["g"] = videos.write_frames(folder / "g", frames)
    return files


KIND_OF = {"f.gif": "animation", "g": "frames"}
CODED = [name for name, _ in encoders()] + list(KIND_OF)


@pytest.mark.parametrize("name", CODED)
def test_frame_numbers_agree_with_reading_from_the_beginning(coded, name):
    """Identical pixels and the right pictures from any start, such as keyframes and their neighbours."""
    kind = KIND_OF.get(name, "video")
    every = all_frames(coded[name], kind)
    assert videos.numbers(every) == list(range(130))
    for start in (0, 1, 19, 20, 21, 47, 48, 59, 60, 61, 79, 81, 100, 119, 120, 121, 129):
        pixels = next(reader(kind).frames(str(coded[name]), start, 130))()
        np.testing.assert_array_equal(pixels, every[start])


def test_long_videos_are_not_decoded_from_the_beginning(coded, monkeypatch):
    from svdjax.data import video_files

    sought = []
    decode = video_files._decode
    monkeypatch.setattr(video_files, "_decode", lambda path, time=None: sought.append(time) or decode(path, time))
    assert videos.numbers(next(video_files.frames(str(coded["b.mp4"]), 110, 130))()[None]) == [110]
    assert len(sought) == 1
    assert sought[0] > 0
    assert videos.numbers(next(video_files.frames(str(coded["b.mp4"]), 110, 131))()[None]) == [
        110
    ]  # another number of frames than expected
    assert sought[1:] == [None]


@pytest.mark.parametrize("name", ["b.mp4", "f.gif", "g"])
@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
def test_clips_are_fitted_frames(coded, name, mode):
    source = videos.source(coded[name], KIND_OF.get(name, "video"))
    every = all_frames(coded[name], source.kind)
    clip = read_clip(source, 50, 5, 3, (40, 20), mode)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, [fit(every[i], (40, 20), mode) for i in (50, 53, 56, 59, 62)])


def test_only_wanted_frames_become_pixels(coded, monkeypatch):
    from svdjax.data import video_pixels

    converted = []
    to_rgb = video_pixels._to_rgb
    monkeypatch.setattr(video_pixels, "_to_rgb", lambda frame: converted.append(1) or to_rgb(frame))
    source = videos.source(coded["b.mp4"])
    converted.clear()
    read_clip(source, 7, 4, 5, SIZE)
    assert len(converted) == 4


def test_outputs_of_this_project_are_training_data(tmp_path):
    """Colours are exact up to coding loss and half a level of brightness (FFmpeg's default conversion is 1.5 levels off)."""
    frames = media.moving_photo()
    for name in media.NAMES:
        write_video(plan_output(tmp_path / name), frames, 7)
    candidates, ignored = find_sources(tmp_path)
    assert ([(c.name, c.kind) for c in candidates], ignored) == (
        [("clip", "frames"), ("clip.gif", "animation"), ("clip.mp4", "video"), ("clip.webp", "animation")],
        0,
    )
    for candidate in candidates:
        read = all_frames(candidate.path, candidate.kind)
        assert np.array_equal(read, frames) or media.psnr(read, frames) > 38, candidate
        assert np.abs((read.astype(float) - frames).mean((0, 1, 2))).max() < 0.5, candidate


def test_non_square_pixels(tmp_path):
    frames = videos.coded_frames(3, (32, 32))
    path = videos.write_video(tmp_path / "a.mp4", frames, aspect=Fraction(3, 2))
    assert all_frames(path).shape == (3, 32, 48, 3)
    assert videos.numbers(all_frames(path)) == [0, 1, 2]


def test_colours_follow_range_and_matrix(tmp_path):
    frames = np.full((3, 32, 32, 3), (200, 40, 90), np.uint8)
    for matrix, range_ in (("bt709", "tv"), ("smpte170m", "tv"), ("bt709", "pc"), ("bt2020nc", "tv"), (None, "tv")):
        path = tmp_path / f"{matrix}-{range_}.mp4"
        space = {"bt709": "ITU709", "bt2020nc": "BT2020"}.get(matrix or "", "ITU601")
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            codec = stream.codec_context
            codec.colorspace = {"bt709": 1, "smpte170m": 6, "bt2020nc": 9, None: 2}[matrix]
            codec.color_range = 2 if range_ == "pc" else 1
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace=space, dst_color_range="JPEG" if range_ == "pc" else "MPEG"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        decoded = all_frames(path).astype(int)
        assert np.abs(decoded - frames).max() <= 3, path.name  # the wrong matrix is off by 9 or more


def test_transparent_frames_are_shown_over_white(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = clear[-1, -1] = (10, 20, 30, 255)  # the corner too, because libwebp cuts off empty margins
    images = [Image.fromarray(clear), Image.fromarray(np.roll(clear, 2, 0))]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True)
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], disposal=2)
    videos.write_frames(tmp_path / "a", [np.asarray(image) for image in images])
    for name, kind in (("a.webp", "animation"), ("a.gif", "animation"), ("a", "frames")):
        frames = all_frames(tmp_path / name, kind)
        assert frames[0, 0, 0].tolist() == [10, 20, 30]
        assert frames[0, -1, 0].tolist() == [255, 255, 255]
        assert frames[1, 0, 0].tolist() == [255, 255, 255]


def test_frames_in_natural_order(tmp_path):
    folder = videos.write_frames(tmp_path / "a", videos.coded_frames(12))
    assert videos.numbers(all_frames(folder, "frames")) == list(range(12))


def test_sources_that_changed_after_the_scan(tmp_path):
    folder = videos.write_frames(tmp_path / "a", videos.coded_frames(6))
    source = videos.source(folder, "frames")
    (folder / "5.png").unlink()
    with pytest.raises(InputError, match="has changed since it was scanned: no frame 5, it had 6"):
        read_clip(source, 2, 4, 1, SIZE)
    videos.write_frames(folder, videos.coded_frames(6, (40, 24)))
    with pytest.raises(InputError, match="has changed since it was scanned: frame 2 is 40x24, it was 32x24"):
        read_clip(source, 2, 4, 1, SIZE)


def test_names_of_clips(tmp_path):
    source = videos.source(videos.write_frames(tmp_path / "a", videos.coded_frames(6)), "frames")
    assert Clip(source, 1, 4).name == "a frames 1-4"
    assert Clip(source, 0, 3, 2).name == "a frames 0-4 by 2"


def test_additional_kinds_of_sources(monkeypatch):
    """A kind is a module with two functions, such as this one, and an entry in `READERS`."""
    monkeypatch.setitem(READERS, "numbers", __name__)
    skipped = measure_source(Candidate("x", "6", "numbers"), 9, 1, 0)
    assert isinstance(skipped, Skipped)
    source = measure_source(Candidate("x", "6", "numbers"), 4, 1, 0)
    assert isinstance(source, Source)
    assert (source.frames, source.digest, source.clips) == (6, "digest of 6", 3)
    np.testing.assert_array_equal(read_clip(source, 1, 4, 1, SIZE), videos.coded_frames(6)[1:5])
    assert [len(list(read_frames(source, n, SIZE))) for n in ([], [2], [0, 5])] == [0, 1, 2]
    assert dataclasses.replace(source, digest="other").fingerprint != source.fingerprint


def frames(path, start=0, count=None):
    for frame in videos.coded_frames(int(path))[start:]:
        yield lambda frame=frame: frame


def digest(path):
    return 0, f"digest of {path}"
