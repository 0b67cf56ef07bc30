"""Keyframe files of every kind, made here by Pillow or byte by byte; expected pixels come from the arrays they hold."""

import struct
import warnings

import numpy as np
import pytest
from media import png, smooth_picture
from PIL import Image, ImageCms, ImageOps

from svdjax.errors import InputError
from svdjax.media.images import load_image, load_keyframes


@pytest.fixture
def pixels():
    return smooth_picture()


def over(colour, alpha, background):
    return np.round((colour * alpha[..., None].astype(float) + np.asarray(background) * (255 - alpha[..., None])) / 255)


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
        pytest.skip("this Pillow was built without it")
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", quality=95)
    image, notes = load_image(tmp_path / f"a.{ending}")
    # Chroma at half resolution on a picture this small: a few levels; a channel swap or shift would be tens.
    assert np.abs(image.astype(int) - pixels).mean() < 3
    assert notes == []


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, pixels, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    image, _ = load_image(path)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert expected.shape == ((44, 30, 3) if orientation > 4 else (30, 44, 3))
    np.testing.assert_array_equal(image, expected)


def test_orientation_also_of_16_bit_and_transparent_images(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = ("eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "deep.png"
    path.write_bytes(png(pixels.astype(np.uint16) * 257, 16, 2, (plain[0].encode(), plain[1])))
    np.testing.assert_array_equal(load_image(path)[0], np.rot90(pixels, -1))
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0], np.rot90(pixels, -1))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_broken_exif_does_not_refuse_the_picture(tmp_path, pixels, exif, ending):
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_image(tmp_path / f"a.{ending}")[0], pixels)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_alpha_is_composited_over_the_background(tmp_path, pixels, background):
    alpha = np.linspace(0, 255, pixels.shape[0] * pixels.shape[1]).reshape(pixels.shape[:2]).astype(np.uint8)
    grey = np.repeat(pixels[..., :1], 3, -1)
    cases = {
        "rgba.png": (Image.fromarray(np.dstack([pixels, alpha])), pixels),
        "la.png": (Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(alpha)]), grey),
        "rgba.tif": (Image.fromarray(np.dstack([pixels, alpha])), pixels),
    }
    for name, (picture, colour) in cases.items():
        picture.save(tmp_path / name)
        image, notes = load_image(tmp_path / name, background)
        np.testing.assert_array_equal(image, over(colour, alpha, background))
        assert notes == [f"{tmp_path / name}: transparent parts shown over the background rgb{background}"]


def test_an_opaque_alpha_channel_changes_nothing_and_says_nothing(tmp_path, pixels):
    Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])).save(tmp_path / "a.png")
    image, notes = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, pixels)
    assert notes == []


def test_one_transparent_colour(tmp_path):
    """tRNS of grey (every depth), RGB and palette images."""
    red, green, blue = (200, 30, 40), (20, 210, 50), (60, 70, 220)
    key_rgb = (b"tRNS", struct.pack(">HHH", *green))
    palette = (b"PLTE", bytes([*red, *green, *blue]))
    cases = {
        "grey1": (png(np.array([[0, 1, 0]]), 1, 0, (b"tRNS", b"\0\1")), [(0,) * 3, (9, 8, 7), (0,) * 3]),
        "grey2": (png(np.array([[0, 2, 3]]), 2, 0, (b"tRNS", b"\0\2")), [(0,) * 3, (9, 8, 7), (255,) * 3]),
        "grey4": (png(np.array([[0, 8, 15]]), 4, 0, (b"tRNS", b"\0\x08")), [(0,) * 3, (9, 8, 7), (255,) * 3]),
        "grey8": (png(np.array([[0, 8, 15]]), 8, 0, (b"tRNS", b"\0\x08")), [(0,) * 3, (9, 8, 7), (15,) * 3]),
        # one low bit apart: only the first of the last two is the transparent one
        "grey16": (png(np.array([[514, 0x4001, 0x4000]]), 16, 0, (b"tRNS", b"\x40\1")), [(2,) * 3, (9, 8, 7), (64,) * 3]),
        "rgb8": (png(np.array([[red, green, blue]]), 8, 2, key_rgb), [red, (9, 8, 7), blue]),
        "rgb16": (
            png(np.array([[(257, 514, 771), (1, 2, 3), (1, 2, 4)]]), 16, 2, (b"tRNS", b"\0\1\0\2\0\3")),
            [(1, 2, 3), (9, 8, 7), (0, 0, 0)],
        ),
        "palette": (png(np.array([[0, 1, 2]]), 8, 3, palette, (b"tRNS", b"\xff\0\xff")), [red, (9, 8, 7), blue]),
    }
    for name, (data, expected) in cases.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(data)
        image, notes = load_image(path, (9, 8, 7))
        np.testing.assert_array_equal(image, [expected], err_msg=name)
        assert "transparent" in notes[-1]


def test_16_bits_are_scaled_and_rounded(tmp_path):
    values = np.array([0, 1, 128, 129, 255, 256, 257, 32767, 32768, 65279, 65280, 65406, 65407, 65535])
    expected = np.round(values / 257).astype(np.uint8)  # no value of 16 bits lies half-way
    assert expected[-1] == 255
    grey, rgb = values[None], np.stack([values, values[::-1], values], -1)[None]
    opaque = np.full_like(grey, 65535)[..., None]
    for name, data, colour in (
        ("grey", png(grey, 16, 0), np.stack([expected] * 3, -1)),
        ("grey and alpha", png(np.concatenate([grey[..., None], opaque], -1), 16, 4), np.stack([expected] * 3, -1)),
        ("rgb", png(rgb, 16, 2), np.stack([expected, expected[::-1], expected], -1)),
        ("rgba", png(np.concatenate([rgb, opaque], -1), 16, 6), np.stack([expected, expected[::-1], expected], -1)),
    ):
        path = tmp_path / f"{name}.png"
        path.write_bytes(data)
        image, notes = load_image(path)
        np.testing.assert_array_equal(image[0], colour, err_msg=name)
        assert notes == [f"{path}: 16 bits a channel scaled to 8"]
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "grey.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "grey.tif")[0][0, :, 0], expected)
    (tmp_path / "grey.pgm").write_bytes(b"P5 14 1 65535\n" + grey.astype(">u2").tobytes())
    np.testing.assert_array_equal(load_image(tmp_path / "grey.pgm")[0][0, :, 0], expected)


def test_16_bit_alpha(tmp_path):
    values = np.array([[[65535, 0, 0, 32768], [0, 65535, 0, 0]]])
    (tmp_path / "a.png").write_bytes(png(values, 16, 6))
    image, _ = load_image(tmp_path / "a.png", (0, 0, 0))
    np.testing.assert_array_equal(image[0], [[128, 0, 0], [0, 0, 0]])


def test_wide_16_bit_rows_and_many_sizes(tmp_path):
    """The decoder pads its rows; none of the padding may show."""
    rng = np.random.default_rng(0)
    for width in (1, 7, 16, 33, 100):
        values = rng.integers(0, 65536, (5, width, 3))
        (tmp_path / "a.png").write_bytes(png(values, 16, 2))
        np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0], np.round(values / 257))


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
    # JPEG's rounding, four channels: a level or two each; inverted inks, the usual mistake, would be 100 or more.
    assert np.abs(image.astype(int) - pixels).max() <= 8


def _profile(swap):
    """ICC bytes: sRGB, with red and green exchanged and another title if `swap`."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if not swap:
        return data
    data = data.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    return data.replace("sRGB".encode("utf-16-be"), "SWAP".encode("utf-16-be"))


def test_other_colour_profiles_become_srgb(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "swap.png", icc_profile=_profile(True))
    image, notes = load_image(tmp_path / "swap.png")
    # 8-bit conversions round twice.
    assert np.abs(image.astype(int) - pixels[..., [1, 0, 2]]).max() <= 2
    assert len(notes) == 1
    assert "colours converted to sRGB from its profile SWAP" in notes[0]
    alpha = np.full(pixels.shape[:2], 128, np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "swap-alpha.png", icc_profile=_profile(True))
    image, _ = load_image(tmp_path / "swap-alpha.png", (0, 0, 0))
    assert np.abs(image.astype(int) - over(pixels[..., [1, 0, 2]], alpha, (0, 0, 0))).max() <= 2


def test_an_srgb_profile_keeps_every_bit_and_a_broken_one_is_ignored(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "srgb.png", icc_profile=_profile(False))
    image, notes = load_image(tmp_path / "srgb.png")
    np.testing.assert_array_equal(image, pixels)
    assert notes == []
    Image.fromarray(pixels).save(tmp_path / "broken.png", icc_profile=b"no profile at all")
    image, notes = load_image(tmp_path / "broken.png")
    np.testing.assert_array_equal(image, pixels)
    assert notes == [f"{tmp_path / 'broken.png'}: its colour profile can't be read and is ignored"]


def test_the_first_frame_of_an_animation(tmp_path):
    colours = [(250, 10, 20), (20, 240, 30), (30, 20, 230)]
    frames = [Image.new("RGB", (12, 10), c) for c in colours]
    for name, options in (
        ("a.gif", {}),
        ("a.webp", {"lossless": True}),
        ("a.png", {}),
        ("pages.tif", {}),
    ):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        image, notes = load_image(tmp_path / name)
        np.testing.assert_array_equal(image, np.full((10, 12, 3), colours[0]), err_msg=name)
        assert notes == [f"{tmp_path / name}: holds 3 frames, the first is used"]


def test_the_first_frame_of_an_apng_with_another_still_picture(tmp_path):
    frames = [Image.new("RGB", (12, 10), c) for c in ((250, 10, 20), (20, 240, 30), (30, 20, 230))]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0][0, 0], (20, 240, 30))


def test_a_transparent_gif(tmp_path):
    path = tmp_path / "a.gif"
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([200, 0, 0, 0, 0, 200] + [0] * 762)
    picture.putpixel((2, 1), 1)
    picture.save(path, transparency=0)
    image, notes = load_image(path)
    assert image[1, 2].tolist() == [0, 0, 200]
    assert image[0, 0].tolist() == [255, 255, 255]
    assert "transparent" in notes[0]


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
