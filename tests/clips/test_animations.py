"""Animations as clips: recognized by their content, frames and transparency by value, damaged ones refused."""

import numpy as np
import pytest
import videos
from media import png
from PIL import Image

from svdjax.data.animations import frames as frames_of
from svdjax.data.animations import is_animation
from svdjax.data.discover import find_sources
from svdjax.data.readers import reader
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings
from svdjax.errors import InputError

ENDINGS = ["png", "webp", "gif", "avif"]


def animation(path, frames, **options):
    Image.init()
    if path.suffix == ".avif" and "AVIF" not in Image.SAVE_ALL:
        pytest.skip("not supported by this build of Pillow")
    images = [Image.fromarray(pixels) for pixels in frames]
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, **lossless, **options)
    return path


def all_frames(path):
    return np.stack([pixels() for pixels in reader("animation").frames(str(path))])


@pytest.mark.parametrize("ending", ENDINGS)
def test_animations_are_clips_of_their_own(tmp_path, ending):
    """Beside still pictures of the same format, which are the frames of their folder."""
    frames = videos.coded_frames(9)
    path = animation(tmp_path / f"a.{ending}", frames)
    videos.write_frames(tmp_path, frames, "{}.png")
    candidates, _ = find_sources(tmp_path)
    assert [(c.name, c.kind) for c in candidates] == [(".", "frames"), (f"a.{ending}", "animation")]
    assert videos.numbers(all_frames(path)) == list(range(9))
    assert videos.numbers(next(reader("animation").frames(str(path), 6, 9))()[None]) == [6]
    result = scan(DataSettings(folder=tmp_path, num_frames=4, size=videos.SIZE))
    assert [(s.name, s.frames) for s in result.usable] == [(".", 9), (f"a.{ending}", 9)]


def test_a_still_picture_before_an_animated_png_is_left_out(tmp_path):
    path = animation(tmp_path / "a.png", videos.coded_frames(5), default_image=True)
    assert videos.numbers(all_frames(path)) == [1, 2, 3, 4]


def test_still_pictures_are_not_animations(tmp_path):
    frames = videos.coded_frames(2)
    one = animation(tmp_path / "one.png", frames[:1])
    one.write_bytes(png(frames[0].astype(int), 8, 2, (b"acTL", b"\0\0\0\1\0\0\0\0")))
    for name in ("a.png", "a.webp", "a.avif"):
        Image.fromarray(frames[0]).save(tmp_path / name)
        assert not is_animation(str(tmp_path / name)), name
    for name, data in (("b.png", b"\x89PNG\r\n\x1a\n"), ("c.png", b""), ("d.webp", b"RIFF")):
        (tmp_path / name).write_bytes(data)
        assert not is_animation(str(tmp_path / name)), name
    assert not is_animation(str(one))
    assert not is_animation(str(tmp_path / "missing.png"))
    animation(tmp_path / "a.png", frames)  # the same name with another content
    assert is_animation(str(tmp_path / "a.png"))


def test_transparent_animated_png(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (10, 20, 30, 255)
    clear[4:6] = (10, 20, 30, 128)
    frames = all_frames(animation(tmp_path / "a.png", [clear, np.roll(clear, 2, 0)], disposal=1))
    assert frames[0][[0, 4, 7], 0].tolist() == [[10, 20, 30], [132, 137, 142], [255, 255, 255]]
    assert frames[1][[2, 6, 0], 0].tolist() == [[10, 20, 30], [132, 137, 142], [255, 255, 255]]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_animations(tmp_path, ending, kept):
    noise = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), np.uint8)
    path = animation(tmp_path / f"a.{ending}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=r"cut short|not an animated gif, webp, png or avif that can be read"):
        all_frames(path)


def test_links_that_can_not_be_followed_are_ignored(tmp_path):
    videos.write_frames(tmp_path / "a", videos.coded_frames(5))
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "nowhere.png").symlink_to(folder / "missing.png")
    result = scan(DataSettings(folder=tmp_path, num_frames=4, size=videos.SIZE))
    assert [(s.name, s.frames) for s in result.usable] == [("a", 5)]
    assert (result.skipped, result.ignored) == ((), 4)


def test_far_too_many_pixels(tmp_path, recwarn):
    """One line, without Pillow's warning."""
    path = tmp_path / "huge.webp"
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    data = bytearray(path.read_bytes())
    data[24:30] = (12000).to_bytes(3, "little") + (13000).to_bytes(3, "little")  # the canvas, less 1
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        list(frames_of(str(path)))
    assert str(path) in str(error.value)
    assert not recwarn.list
