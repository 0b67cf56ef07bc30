"""Clips in every format, read back with independent code: FFmpeg (through av) for mp4, Pillow for the rest."""

import json
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from media import NAMES, moving_photo, psnr, read_clip
from PIL import Image

from svdjax.errors import InputError
from svdjax.media import video_formats
from svdjax.media.output_plan import plan_output
from svdjax.media.video import read_metadata, write_video

METADATA = {"seed": "7", "settings": 'quotes " and ünïcödé', "long": "x" * 1000}


@pytest.fixture(scope="module")
def photo():
    return moving_photo()


@pytest.mark.parametrize(("name", "least"), [("clip.mp4", 37), ("clip.gif", 31), ("clip.webp", 37), ("clip", np.inf)])
@pytest.mark.parametrize("fps", [1, 7, 24])
def test_every_frame_comes_back(tmp_path, photo, name, least, fps):
    """PSNR bounds are 1 to 2 dB below the values of this photo; a shifted or lost frame costs 15 dB or more."""
    path = write_video(plan_output(tmp_path / name), photo, fps, METADATA)
    frames, durations = read_clip(path)
    assert frames.shape == photo.shape
    with np.errstate(divide="ignore"):
        for got, expected in zip(frames, photo, strict=True):
            assert psnr(got, expected) >= least
    if durations:
        unit = {".mp4": 1e-4, ".gif": 0.01, ".webp": 0.001}[path.suffix]
        assert sum(durations) == pytest.approx(9 / fps, abs=unit / 2 + 1e-9)
        np.testing.assert_allclose(durations, 1 / fps, atol=unit + 1e-9)
    assert read_metadata(path) == METADATA
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_flat_colours_come_back(tmp_path, name):
    """A wrong matrix (BT.601 for BT.709) or range changes these by 10 to 30 levels; 8-bit YUV itself by one or two."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (200, 30, 90), (17, 34, 51)]
    frames = np.stack([np.full((32, 48, 3), c, np.uint8) for c in colours])
    got, _ = read_clip(write_video(plan_output(tmp_path / name), frames, 7))
    assert np.abs(got.astype(int) - frames).max() <= 3
    assert np.abs((got.astype(int) - frames).mean((0, 1, 2))).max() < 0.7  # no channel is brighter or darker on average


@pytest.mark.parametrize("name", NAMES)
def test_equal_frames_and_single_frames_are_kept(tmp_path, photo, name):
    for count in (1, 5):
        frames = np.repeat(photo[:1], count, 0)
        got, durations = read_clip(write_video(plan_output(tmp_path / name, overwrite=True), frames, 8))
        assert got.shape == frames.shape
        if durations:
            assert sum(durations) == pytest.approx(count / 8, abs=0.0051)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_clip_is_the_same_file(tmp_path, photo, name):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = write_video(plan_output(tmp_path / folder / name), photo, 7, METADATA)
        files.append((path / "0003.png" if path.is_dir() else path).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("size", [(16, 16), (18, 34), (200, 102), (2, 2)])
def test_mp4_keeps_sizes_that_are_not_multiples_of_16(tmp_path, size):
    frames = np.full((3, size[1], size[0], 3), 90, np.uint8)
    got, _ = read_clip(write_video(plan_output(tmp_path / "a.mp4"), frames, 7))
    assert got.shape == frames.shape


def test_mp4_plays_everywhere(tmp_path, photo):
    path = write_video(plan_output(tmp_path / "a.mp4"), photo, 7, METADATA)
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, stream.average_rate, stream.frames) == ("h264", "yuv420p", 7, 9)
        assert codec.colorspace == codec.color_primaries == codec.color_trc == 1  # BT.709 in ITU-T H.273
        assert codec.color_range == 1  # limited
        assert json.loads(container.metadata["comment"]) == METADATA
    contents = path.read_bytes()
    assert 0 < contents.index(b"moov") < contents.index(b"mdat")  # index first, so playback can start during the download
    assert b"colr" in contents  # the tags are also in the container, for players that ignore H.264 headers


def test_gif_and_webp_loop_for_ever(tmp_path, photo):
    for name in ("a.gif", "a.webp"):
        with Image.open(write_video(plan_output(tmp_path / name), photo, 7)) as image:
            assert image.info["loop"] == 0


def test_gif_has_one_palette_so_that_still_parts_stay_still(tmp_path, photo):
    """Part of the picture moves; the still part must not change between frames."""
    frames = photo.copy()
    frames[:, :60] = photo[0, :60]
    got, _ = read_clip(write_video(plan_output(tmp_path / "a.gif"), frames, 7))
    np.testing.assert_array_equal(got[1:, :60], np.broadcast_to(got[0, :60], got[1:, :60].shape))


def test_gif_is_dithered(tmp_path, photo):
    """Means of 8x8 blocks differ by 0.45 levels; without dither, which shows bands, by 1.4."""

    def blocks(frames):
        f, h, w, c = frames.shape
        return frames.reshape(f, h // 8, 8, w // 8, 8, c).mean((2, 4))

    got, _ = read_clip(write_video(plan_output(tmp_path / "a.gif"), photo, 7))
    assert np.abs(blocks(got) - blocks(photo)).mean() < 0.8


def test_webp_is_well_formed(tmp_path, photo):
    """Checks every chunk, because browsers may be stricter than Pillow."""
    contents = write_video(plan_output(tmp_path / "a.webp"), photo, 7, METADATA).read_bytes()
    assert contents[:4] == b"RIFF"
    assert contents[8:12] == b"WEBP"
    assert int.from_bytes(contents[4:8], "little") == len(contents) - 8
    chunks, at = [], 12
    while at < len(contents):
        length = int.from_bytes(contents[at + 4 : at + 8], "little")
        chunks.append((contents[at : at + 4], contents[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    assert at == len(contents)
    assert [name for name, _ in chunks] == [b"VP8X", b"ANIM", *[b"ANMF"] * 9, b"EXIF"]
    for _, frame in chunks[2:-1]:
        assert frame[15] == 0x02  # replaces the whole canvas: no blending with the previous frame, no disposal
        assert frame[16:20] == b"VP8 "
    assert chunks[-1][1][:4] in (b"II*\0", b"MM\0*")  # a bare TIFF structure


@pytest.mark.parametrize(("name", "side"), [("a.mp4", 16384), ("a.webp", 16383), ("a.gif", 65535)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_largest_sides_work(tmp_path, name, side, turned):
    frames = np.full((2, 16, side, 3), 100, np.uint8)
    got, _ = read_clip(write_video(plan_output(tmp_path / name), frames.swapaxes(1, 2) if turned else frames, 7))
    assert got.shape == (2, side, 16, 3) if turned else (2, 16, side, 3)


def test_a_gif_shows_at_most_50_frames_a_second(tmp_path, photo):
    with pytest.raises(InputError, match=r"fps is 51, expected a number from 0\.01 to 50"):
        plan_output(tmp_path / "a.gif", fps=51)
    assert sum(read_clip(write_video(plan_output(tmp_path / "a.gif", fps=50), photo, 50))[1]) == pytest.approx(9 / 50)


def test_the_highest_frame_rates_work(tmp_path, photo):
    for name in ("a.mp4", "a.webp"):
        frames, durations = read_clip(write_video(plan_output(tmp_path / name), photo, np.int64(1000)))
        assert len(frames) == 9
        assert sum(durations) == pytest.approx(0.009)


def test_nothing_is_printed(tmp_path, photo, capfd):
    for name in NAMES:
        write_video(plan_output(tmp_path / name), photo, 7)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_metadata_values_become_text(tmp_path, photo, name):
    """Also numbers of NumPy, and names of files that aren't UTF-8."""
    path = write_video(plan_output(tmp_path / name), photo[:1], 7, {"seed": np.int64(3), "scale": 1.5, "image": "caf\udce9"})
    assert read_metadata(path) == {"seed": "3", "scale": "1.5", "image": "caf\\xe9"}


def test_metadata_of_other_files_is_empty(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=b"made by hand")
    assert read_metadata(tmp_path / "a.gif") == {}
    Image.new("RGB", (4, 4)).save(tmp_path / "a.webp")
    assert read_metadata(tmp_path / "a.webp") == {}


def test_riff_chunks_are_padded_to_even_lengths():
    assert video_formats._riff_chunk(b"ABCD", b"123") == b"ABCD\3\0\0\x00123\0"
    assert video_formats._riff_chunk(b"ABCD", b"12") == b"ABCD\2\0\0\x0012"


def test_durations_add_up():
    for fps in (1, 3, 7, 24, 30, 49, Fraction(24000, 1001)):
        for units in (100, 1000):
            durations = video_formats.frame_durations(25, fps, units)
            assert abs(sum(durations) - 25 * units / fps) <= 0.5
            assert max(durations) - min(durations) <= 1
