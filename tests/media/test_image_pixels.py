"""Conversion of pixels to 8-bit sRGB: transparency, 16 bits per channel, colour profiles."""

import struct

import numpy as np
import pytest
from media import png, smooth_picture
from PIL import Image, ImageCms

from svdjax.media.images import load_image


@pytest.fixture
def pixels():
    return smooth_picture()


def over(colour, alpha, background):
    return np.round((colour * alpha[..., None].astype(float) + np.asarray(background) * (255 - alpha[..., None])) / 255)


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


def test_an_opaque_alpha_channel_changes_nothing(tmp_path, pixels):
    Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])).save(tmp_path / "a.png")
    image, notes = load_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, pixels)
    assert notes == []


def test_one_transparent_colour(tmp_path):
    """A tRNS chunk in grey images of every depth, RGB and palette images."""
    red, green, blue = (200, 30, 40), (20, 210, 50), (60, 70, 220)
    key_rgb = (b"tRNS", struct.pack(">HHH", *green))
    palette = (b"PLTE", bytes([*red, *green, *blue]))
    cases = {
        "grey1": (png(np.array([[0, 1, 0]]), 1, 0, (b"tRNS", b"\0\1")), [(0,) * 3, (9, 8, 7), (0,) * 3]),
        "grey2": (png(np.array([[0, 2, 3]]), 2, 0, (b"tRNS", b"\0\2")), [(0,) * 3, (9, 8, 7), (255,) * 3]),
        "grey4": (png(np.array([[0, 8, 15]]), 4, 0, (b"tRNS", b"\0\x08")), [(0,) * 3, (9, 8, 7), (255,) * 3]),
        "grey8": (png(np.array([[0, 8, 15]]), 8, 0, (b"tRNS", b"\0\x08")), [(0,) * 3, (9, 8, 7), (15,) * 3]),
        # the last two differ in the lowest bit: only the first of them is transparent
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


def test_16_bits_are_scaled_and_rounded(tmp_path):
    values = np.array([0, 1, 128, 129, 255, 256, 257, 32767, 32768, 65279, 65280, 65406, 65407, 65535])
    expected = np.round(values / 257).astype(np.uint8)  # no 16-bit value is exactly halfway
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
        assert notes == [f"{path}: 16 bits per channel scaled to 8"]
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
    """The decoder pads its rows; the padding must not appear in the image."""
    rng = np.random.default_rng(0)
    for width in (1, 7, 16, 33, 100):
        values = rng.integers(0, 65536, (5, width, 3))
        (tmp_path / "a.png").write_bytes(png(values, 16, 2))
        np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0], np.round(values / 257))


def tiff_16_bit(photometric, samples, planes=False, order="<"):
    """An uncompressed TIFF of uint16 (H, W, C)."""
    height, width, channels = samples.shape
    data = (np.moveaxis(samples, -1, 0) if planes else samples).astype(f"{order}u2").tobytes()
    plane = len(data) // channels
    count = channels if planes else 1
    head = 8 + len(data)
    lists = struct.pack(f"{order}{channels}H", *[16] * channels).ljust(8, b"\0")
    lists += struct.pack(f"{order}{2 * count}I", *[8 + i * plane for i in range(count)], *[len(data) // count] * count)
    start = head + len(lists)
    tags = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height, 284: 2 if planes else 1}
    entries = {number: (4, 1, value) for number, value in tags.items()}
    entries[258] = (3, channels, head) if channels > 2 else (4, 1, 16)
    entries[273] = (4, count, head + 8) if count > 1 else (4, 1, 8)
    entries[279] = (4, count, head + 8 + 4 * count) if count > 1 else (4, 1, len(data))
    directory = struct.pack(f"{order}H", len(entries))
    directory += b"".join(struct.pack(f"{order}HHII", number, *entries[number]) for number in sorted(entries)) + bytes(4)
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start) + data + lists + directory


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
def test_16_bit_rgb_tiffs_are_rounded(tmp_path, planes, order):
    values = np.random.default_rng(0).integers(0, 65536, (5, 33, 3))
    (tmp_path / "a.tif").write_bytes(tiff_16_bit(2, values, planes, order))
    image, notes = load_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image, np.round(values / 257))
    assert notes == [f"{tmp_path / 'a.tif'}: 16 bits per channel scaled to 8"]


@pytest.mark.parametrize(("photometric", "order"), [(0, "<"), (1, "<"), (1, ">")])
def test_16_bit_grey_tiffs_where_0_is_white_or_black(tmp_path, photometric, order):
    values = np.random.default_rng(0).integers(0, 65536, (5, 33, 1))
    (tmp_path / "a.tif").write_bytes(tiff_16_bit(photometric, values, order=order))
    expected = values if photometric else 65535 - values
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[0][..., :1], np.round(expected / 257))


def _profile(swap):
    """An ICC profile: sRGB, or with `swap` red and green exchanged and another title."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if not swap:
        return data
    data = data.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    return data.replace("sRGB".encode("utf-16-be"), "SWAP".encode("utf-16-be"))


def test_other_colour_profiles_become_srgb(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "swap.png", icc_profile=_profile(True))
    image, notes = load_image(tmp_path / "swap.png")
    # The conversion rounds twice.
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
