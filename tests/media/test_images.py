"""Image files of every format: frames, orientation, palettes. Expected pixels come from the arrays in the files."""

import warnings

import numpy as np
import pytest
from media import png, smooth_picture
from PIL import Image, ImageOps

from svdjax.errors import InputError
from svdjax.media.images import load_image, load_keyframes


@pytest.fixture
def pixels():
    return smooth_picture()


def test_plain_rgb_passes_bit_for_bit(tmp_path, pixels):
    for ending in ("png", "bmp", "tif", "ppm"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(pixels).save(path)
        image, notes = load_image(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, pixels)
        assert notes == []
        assert image.flags.c_contiguous


@pytest.mark.parametrize("ending", ["jpg", "webp", "avif", "jp2"])
def test_lossy_formats(tmp_path, pixels, ending):
    Image.init()
    if f".{ending}" not in Image.EXTENSION or Image.EXTENSION[f".{ending}"] not in Image.SAVE:
        pytest.skip("not supported by this build of Pillow")
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", quality=95)
    image, notes = load_image(tmp_path / f"a.{ending}")
    # Chroma at half resolution on a small picture: a few levels; swapped channels or a shift would be tens.
    assert np.abs(image.astype(int) - pixels).mean() < 3
    assert notes == []


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, pixels, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(path, exif=exif, lossless=True)
    image, _ = load_image(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert expected.shape == ((44, 30, 3) if orientation > 4 else (30, 44, 3))
    np.testing.assert_array_equal(image, expected)


def test_orientation_of_16_bit_and_transparent_images(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    chunk = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "deep.png"
    path.write_bytes(png(pixels.astype(np.uint16) * 257, 16, 2, chunk))
    np.testing.assert_array_equal(load_image(path)[0], np.rot90(pixels, -1))
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0], np.rot90(pixels, -1))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_broken_exif_is_ignored(tmp_path, pixels, exif, ending):
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(tmp_path / f"a.{ending}")[0], pixels)


def test_palette_grey_one_bit_and_cmyk(tmp_path, pixels):
    cases = {
        "p.png": Image.fromarray(pixels).quantize(64),
        "l.png": Image.fromarray(pixels[..., 0]),
        "1.png": Image.fromarray(pixels).convert("1"),
        "cmyk.tif": Image.fromarray(pixels).convert("CMYK"),
    }
    for name, picture in cases.items():
        picture.save(tmp_path / name)
        image, notes = load_image(tmp_path / name)
        np.testing.assert_array_equal(image, np.asarray(picture.convert("RGB")), err_msg=name)
        assert notes == []
    cases["cmyk.tif"].save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    image, _ = load_image(tmp_path / "cmyk.jpg")
    # JPEG rounds four channels by a level or two each; inverted inks, a common mistake, would be 100 or more.
    assert np.abs(image.astype(int) - pixels).max() <= 8


def test_the_first_frame_of_an_animation(tmp_path):
    colours = [(250, 10, 20), (20, 240, 30), (30, 20, 230)]
    frames = [Image.new("RGB", (12, 10), c) for c in colours]
    for name in ("a.gif", "a.webp", "a.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        image, notes = load_image(tmp_path / name)
        np.testing.assert_array_equal(image, np.full((10, 12, 3), colours[0]), err_msg=name)
        assert notes == [f"{tmp_path / name}: holds 3 frames, the first is used"]


def test_the_first_frame_of_an_apng_with_another_still_picture(tmp_path):
    frames = [Image.new("RGB", (12, 10), c) for c in ((250, 10, 20), (20, 240, 30), (30, 20, 230))]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0][0, 0], (20, 240, 30))


def test_keyframes(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])[:20]).save(tmp_path / "b.png")
    loaded, notes = load_keyframes([tmp_path / "a.png", str(tmp_path / "b.png")])
    assert [x.shape for x in loaded] == [(30, 44, 3), (20, 44, 3)]
    assert len(notes) == 1
    assert str(tmp_path / "b.png") in notes[0]
    for few in ([], [tmp_path / "a.png"]):
        with pytest.raises(InputError, match=f"at least two keyframes, got {len(few)}"):
            load_keyframes(few)
