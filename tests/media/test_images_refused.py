"""Files that can't be used as keyframes: each is refused with one line that names it, and nothing else is printed."""

import contextlib
import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from media import moving_photo, open_folder, png, smooth_picture, unprivileged
from PIL import Image, PngImagePlugin

from svdjax.errors import InputError
from svdjax.media import images
from svdjax.media.images import load_image
from svdjax.media.output_plan import plan_output
from svdjax.media.video import write_video


@pytest.fixture
def pixels():
    return smooth_picture()


def refusal(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            load_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_missing_folder_empty_and_special_files(tmp_path):
    assert refusal(tmp_path / "nowhere.png").endswith(": no such file")
    assert refusal(tmp_path / "no-folder" / "a.png").endswith(": no such file")
    assert refusal(tmp_path).endswith(": is a folder, expected an image file")
    (tmp_path / "empty.png").touch()
    assert refusal(tmp_path / "empty.png").endswith(": the file is empty, expected an image")
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refusal(tmp_path / "pipe.png")


def test_no_permission_to_read(pixels):
    with open_folder() as folder:
        Image.fromarray(pixels).save(folder / "a.png")
        (folder / "a.png").chmod(0)
        (folder / "closed").mkdir()
        Image.fromarray(pixels).save(folder / "closed" / "b.png")
        (folder / "closed").chmod(0)
        with unprivileged():
            assert refusal(folder / "a.png").endswith(": no permission to read it")
            assert refusal(folder / "closed" / "b.png").endswith(": no permission to read it")
        (folder / "closed").chmod(0o755)


def test_files_that_are_not_images(tmp_path):
    for name, data in (
        ("text.png", b"this is a text file that is long enough to be examined"),
        ("page.pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),  # Pillow would start Ghostscript
        ("noise.jpg", np.random.default_rng(0).bytes(5000)),
        ("short.png", b"\x89P"),
    ):
        (tmp_path / name).write_bytes(data)
        assert ": not an image of a supported format, expected PNG, JPEG, " in refusal(tmp_path / name)


def test_videos(tmp_path):
    for name in ("clip.mp4", "clip.gif"):
        write_video(plan_output(tmp_path / name), moving_photo(), 7)
    assert "is a video, expected an image" in refusal(tmp_path / "clip.mp4")
    load_image(tmp_path / "clip.gif")
    for name, head in (
        ("a.mkv", b"\x1a\x45\xdf\xa3"),
        ("a.avi", b"RIFF\0\0\0\0AVI LIST"),
        ("a.mov", b"\0\0\0\x08wide"),
        ("a.mpg", b"\0\0\x01\xba"),
    ):
        (tmp_path / name).write_bytes(head + bytes(100))
        assert "is a video, expected an image" in refusal(tmp_path / name)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_images(tmp_path, ending, kept, capfd):
    # Noise doesn't compress, so most of the file is pixels.
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{ending}")
    contents = (tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(contents[: int(len(contents) * kept)])
    assert "the image is damaged or cut short (" in refusal(tmp_path / f"a.{ending}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "group4", "tiff_adobe_deflate"])
def test_damaged_compressed_tiffs(tmp_path, compression, capfd):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    (noise.convert("1") if compression == "group4" else noise).save(tmp_path / "a.tif", compression=compression)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[200:1200] = np.random.default_rng(1).bytes(1000)
    (tmp_path / "a.tif").write_bytes(data)
    with contextlib.suppress(InputError):  # fax codes of noise can be valid
        load_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")
    print("standard error is still open", file=sys.stderr)
    assert "still open" in capfd.readouterr().err


def test_a_truncated_16_bit_png(tmp_path, capfd):
    data = png(np.random.default_rng(0).integers(0, 65536, (40, 50, 3)), 16, 2)
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    assert "damaged or cut short" in refusal(tmp_path / "a.png")
    assert capfd.readouterr() == ("", "")


def test_one_wrong_bit_in_a_png(tmp_path, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert "damaged or cut short" in refusal(tmp_path / "a.png")


def test_enormous_images_are_refused_from_their_header(tmp_path):
    """The files contain no pixels: reading them would fail with another message."""

    def claim(width, height):
        data = bytearray(png(np.zeros((1, 1), int), 8, 0))
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / "a.png").write_bytes(data)
        return refusal(tmp_path / "a.png")

    assert claim(15000, 10000).endswith(": 15000x10000 pixels, expected at most 134 million")
    assert claim(60000, 60000).endswith(": far too many pixels, expected at most 134 million")
    assert "damaged or cut short" in claim(11000, 11000)  # 121 million: allowed, so the pixels are read


def test_the_pixel_limit_itself_passes(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 30 * 44)
    load_image(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 30 * 44 - 1)
    assert "44x30 pixels" in refusal(tmp_path / "a.png")


def test_huge_text_in_a_png_does_not_fill_the_memory(tmp_path, pixels):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b" * (PngImagePlugin.MAX_TEXT_CHUNK + 10), zip=True)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    assert "damaged or cut short" in refusal(tmp_path / "a.png")


def test_pixels_without_a_white_level(tmp_path):
    Image.fromarray(np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)).save(tmp_path / "float.tif")
    assert "its pixels are floats" in refusal(tmp_path / "float.tif")
    Image.fromarray(np.arange(20, dtype=np.int32).reshape(4, 5)).save(tmp_path / "int.tif")
    assert "its pixels are 32-bit integers" in refusal(tmp_path / "int.tif")
