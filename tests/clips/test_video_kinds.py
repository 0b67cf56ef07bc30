"""Unusual videos: display matrices, transparency beside the frames, texts that aren't UTF-8, damaged headers."""

from fractions import Fraction

import av
import media
import numpy as np
import pytest
import videos

from svdjax.data.motion import UNREADABLE
from svdjax.data.readers import reader
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings
from svdjax.errors import InputError

ONE = 0x10000


def all_frames(path):
    return np.stack([pixels() for pixels in reader("video").frames(str(path))])


@pytest.fixture(scope="module")
def picture():
    y, x = np.mgrid[:32, :48]
    return np.stack([x * 5, y * 7, 0 * x], -1).astype(np.uint8)


def with_matrix(path, picture, matrix):
    """An mp4 with (a, b, c, d) in its track header: (x, y) is shown at (a x + c y, b x + d y), y downwards."""
    videos.write_video(path, np.stack([picture] * 3), crf=1)
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[matrix_at + offset : matrix_at + offset + 4] = round(value * ONE).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


MATRICES = {
    "none": ((1, 0, 0, 1), lambda x: x),
    "90 degrees": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "180 degrees": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "270 degrees": ((0, -1, 1, 0), lambda x: np.rot90(x)),
    "mirrored, left and right": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "mirrored, top and bottom": ((1, 0, 0, -1), lambda x: x[::-1]),
    "mirrored at one diagonal": ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
    "mirrored at the other": ((0, -1, -1, 0), lambda x: x[::-1, ::-1].swapaxes(0, 1)),
    "half the size": ((0.5, 0, 0, 0.5), lambda x: x),
    "without an inverse": ((0, 0, 0, 0), lambda x: x),
}


@pytest.mark.parametrize(("matrix", "shown"), MATRICES.values(), ids=MATRICES.keys())
def test_display_matrix(tmp_path, picture, matrix, shown):
    frame, expected = all_frames(with_matrix(tmp_path / "a.mp4", picture, matrix))[1], shown(picture)
    assert frame.shape == expected.shape
    assert media.psnr(frame, expected) > 35


def test_other_rotations_are_refused(tmp_path, picture):
    path = with_matrix(tmp_path / "a.mp4", picture, (0.7071, 0.7071, -0.7071, 0.7071))
    with pytest.raises(InputError, match="its display matrix rotates it by 45 degrees, expected a multiple of 90"):
        all_frames(path)


# Transparency


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx-vp9"), ("b.webm", "libvpx"), ("c.mkv", "libvpx-vp9"), ("d.mkv", "ffv1")]
)
def test_transparency_is_shown_over_white(tmp_path, name, codec):
    """VP8 and VP9 keep opacity beside the frames, FFV1 in them."""
    rgba = np.zeros((32, 48, 4), np.uint8)
    rgba[..., :2] = (200, 30)
    rgba[:8, :, 3], rgba[8:16, :, 3] = 255, 128
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25, options={} if codec == "ffv1" else {"auto-alt-ref": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuva420p"
        for _ in range(60):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")))
        container.mux(stream.encode())
    frames = all_frames(tmp_path / name)
    assert len(frames) == 60
    expected = [[200, 30, 0], [227, 142, 127], [255, 255, 255]]
    assert np.abs(frames[1][[3, 11, 27], 20].astype(int) - expected).max() <= 6
    late = next(reader("video").frames(str(tmp_path / name), 55, 60))()  # from a keyframe of the codec, or the beginning
    np.testing.assert_array_equal(late, frames[55])


# Files that decoders and parsers find unusual


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4", "a.mov"])
def test_texts_that_are_not_utf8(tmp_path, name):
    frames = videos.coded_frames(6)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        container.metadata["title"] = stream.metadata["title"] = stream.metadata["handler_name"] = "CafeXX"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / name).read_bytes()
    assert b"CafeXX" in data
    (tmp_path / name).write_bytes(data.replace(b"CafeXX", b"Caf\xe9XX"))
    assert videos.numbers(all_frames(tmp_path / name)) == list(range(6))


def test_extreme_pixel_shapes_are_refused(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", videos.coded_frames(3), aspect=Fraction(20, 1))
    with pytest.raises(InputError, match="its pixels are 20 times as wide as high, expected 1/16 to 16"):
        all_frames(path)


@pytest.mark.parametrize(
    "error", [UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"), IndexError("0"), MemoryError(), KeyError(3)]
)
@pytest.mark.parametrize("where", ["_check_whole", "pixels"])
def test_any_exception_of_a_reader_skips_only_its_file(tmp_path, monkeypatch, error, where):
    def fail(*args):
        raise error

    monkeypatch.setattr(f"svdjax.data.video_files.{where}", fail)
    videos.write_video(tmp_path / "a.mp4", videos.coded_frames(6))
    videos.write_frames(tmp_path / "b", videos.coded_frames(6))
    with pytest.raises(InputError, match=r"a\.mp4: can't be read \("):
        all_frames(tmp_path / "a.mp4")
    result = scan(DataSettings(folder=tmp_path, num_frames=4, size=videos.SIZE))
    assert [source.name for source in result.usable] == ["b"]
    assert [(item.name, item.reason) for item in result.skipped] == [("a.mp4", UNREADABLE)]
    assert result.skipped[0].detail.startswith("can't be read (")
