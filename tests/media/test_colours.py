"""Colour profiles and colour tags are judged by their content. Expected colours come from the formulas of the standards."""

import struct
import zlib

import icc
import numpy as np
import pytest
from media import png, smooth_picture
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.images import load_image

GAMMA = 2.2


def encoded(light):
    """sRGB levels of linear light (IEC 61966-2-1), not rounded."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def decoded(levels):
    x = np.asarray(levels) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


@pytest.fixture
def pixels():
    return smooth_picture()


def load(tmp_path, pixels, profile, name="a.png"):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(tmp_path / name, icc_profile=profile)
    image, notes = load_image(tmp_path / name)
    return image.astype(float), [note.removeprefix(f"{tmp_path / name}: ") for note in notes]


@pytest.mark.parametrize("title", ["GIMP built-in Linear sRGB", "sRGB", "plain"])
def test_a_linear_profile_is_converted_whatever_its_title(tmp_path, pixels, title):
    image, notes = load(tmp_path, pixels, icc.rgb_profile(icc.LINEAR, title=title))
    assert np.abs(image - encoded(pixels / 255)).max() <= 1
    assert notes == [f"colours converted to sRGB from its profile {title}"]


@pytest.mark.parametrize("title", ["sRGB IEC61966-2.1", "Camera of 1998", ""])
def test_srgb_keeps_every_bit_under_any_title(tmp_path, pixels, title):
    image, notes = load(tmp_path, pixels, icc.rgb_profile(icc.srgb_curve(), title=title))
    np.testing.assert_array_equal(image, pixels)
    assert notes == []


def test_a_wide_gamut(tmp_path, pixels):
    """Display P3: primaries of SMPTE EG 432-1 in D65, here from x and y, where the profile has them adapted to D50."""
    image, notes = load(tmp_path, pixels, icc.rgb_profile(icc.srgb_curve(), icc.P3_COLUMNS, "Display P3 sRGB-like"))
    p3_to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    assert np.abs(image - encoded(decoded(pixels) @ p3_to_srgb.T)).max() <= 1
    assert len(notes) == 1


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_grey_profiles(tmp_path, ending):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    image, notes = load(tmp_path, Image.fromarray(grey), icc.grey_profile(icc.gamma(GAMMA)), f"a.{ending}")
    assert np.abs(image - encoded((grey / 255) ** GAMMA)[..., None]).max() <= (4 if ending == "jpg" else 0.6)
    assert notes == ["colours converted to sRGB from its profile test"]
    with_alpha = Image.merge("LA", [Image.fromarray(grey), Image.new("L", grey.shape[::-1], 255)])
    image, notes = load(tmp_path, with_alpha, icc.grey_profile(icc.LINEAR))
    assert np.abs(image - encoded(grey / 255)[..., None]).max() <= 0.6
    image, notes = load(tmp_path, Image.fromarray(grey), icc.rgb_profile(icc.LINEAR))  # grey pixels in an RGB space
    assert np.abs(image - encoded(grey / 255)[..., None]).max() <= 0.6


def test_profiles_for_other_pixels_are_ignored_with_a_note(tmp_path, pixels):
    for profile in (icc.grey_profile(icc.LINEAR), icc.cmyk_profile()):
        image, notes = load(tmp_path, pixels, profile)
        np.testing.assert_array_equal(image, pixels)
        assert notes == ["its colour profile test is for other pixels than its own and is ignored"]


def test_cmyk_profiles(tmp_path):
    inks = np.zeros((8, 24, 4), np.uint8)
    inks[:, 8:16, 0], inks[:, 16:, 3] = 255, 255
    image, notes = load(tmp_path, Image.fromarray(inks, "CMYK"), icc.cmyk_profile(), "a.tif")
    # CIELAB (50, 64, 0) by the formulas of CIE 15, then sRGB: (211, 55, 122)
    assert np.abs(image[0, [4, 12, 20]] - [[255, 255, 255], [211, 55, 122], [0, 0, 0]]).max() <= 3
    assert notes == ["colours converted to sRGB from its profile test"]


DAMAGED = {
    "cut": icc.rgb_profile(icc.LINEAR)[:250],
    "cut in its curves": icc.rgb_profile(icc.LINEAR)[:-40],
    "zeros": bytes(400),
    "one byte": b"x",
    "an unknown curve": icc.rgb_profile(b"????" + bytes(20)),
    "an enormous curve": icc.rgb_profile(b"curv" + bytes(4) + b"\xff\xff\xff\xff"),
    "a curve that is white everywhere": icc.rgb_profile(icc.gamma(0)),
    "a curve of infinite values": icc.rgb_profile(b"para" + bytes(4) + struct.pack(">HHi", 0, 0, -(1 << 16))),
    "a curve that divides by zero": icc.rgb_profile(b"para" + bytes(4) + struct.pack(">HH3i", 1, 0, 1 << 16, 0, 0)),
}


@pytest.mark.parametrize("profile", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_profiles_are_ignored_with_a_note(tmp_path, pixels, profile):
    image, notes = load(tmp_path, pixels, profile)
    np.testing.assert_array_equal(image, pixels)
    assert notes == ["its colour profile can't be read and is ignored"]


def test_16_bits_are_converted_before_they_are_rounded_to_8(tmp_path):
    """Near black a linear level of 8 bits is 13 levels of sRGB."""
    values = np.linspace(0, 65535, 3000).astype(int).reshape(30, 100, 1).repeat(3, 2)
    profile = icc.rgb_profile(icc.LINEAR)
    (tmp_path / "a.png").write_bytes(png(values, 16, 2, (b"iCCP", b"x\0\0" + zlib.compress(profile))))
    (tmp_path / "grey.png").write_bytes(png(values[..., 0], 16, 0, (b"iCCP", b"x\0\0" + zlib.compress(profile))))
    for name in ("a.png", "grey.png"):
        assert np.abs(load_image(tmp_path / name)[0] - encoded(values / 65535)).max() <= 0.6


CHRM_P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CHUNKS = {  # chunks, expected linear light of stored values, or None for the same pixels
    "linear gAMA": ([(b"gAMA", struct.pack(">I", 100000))], lambda x: x / 255),
    "gAMA of 1.8": ([(b"gAMA", struct.pack(">I", 55556))], lambda x: (x / 255) ** 1.8),
    "gAMA of 2.2": ([(b"gAMA", struct.pack(">I", 45455))], None),
    "gAMA and sRGB": ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], None),
    "cHRM alone": ([(b"cHRM", CHRM_P3)], None),
    "damaged gAMA": ([(b"gAMA", bytes(4))], None),
    "damaged cHRM": ([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32))], None),
    "cICP of sRGB before a linear gAMA": ([(b"cICP", b"\1\x0d\0\1"), (b"gAMA", struct.pack(">I", 100000))], None),
    "linear cICP": ([(b"cICP", b"\1\x08\0\1")], lambda x: x / 255),
}


@pytest.mark.parametrize(("chunks", "light"), CHUNKS.values(), ids=CHUNKS.keys())
def test_chunks_of_a_png(tmp_path, pixels, chunks, light):
    (tmp_path / "a.png").write_bytes(png(pixels.astype(int), 8, 2, *chunks))
    image, notes = load_image(tmp_path / "a.png")
    expected = pixels if light is None else encoded(light(pixels))
    assert np.abs(image - expected).max() <= (0 if light is None else 0.6)
    assert len(notes) == (light is not None)


def test_primaries_in_chunks_of_a_png(tmp_path, pixels):
    data = pixels.astype(int)
    (tmp_path / "a.png").write_bytes(png(data, 8, 2, (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", CHRM_P3)))
    (tmp_path / "b.png").write_bytes(png(data, 8, 2, (b"cICP", b"\x0c\x0d\0\1")))
    images = [load_image(tmp_path / name)[0].astype(float) for name in ("a.png", "b.png")]
    p3_to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    for image in images:
        assert np.abs(image - encoded(decoded(pixels) @ p3_to_srgb.T)).max() <= 1


def test_high_dynamic_range_is_refused(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(png(pixels.astype(int), 8, 2, (b"cICP", b"\x09\x10\0\1")))
    with pytest.raises(InputError, match=r"a\.png: its colours are of high dynamic range \(PQ\), expected sRGB"):
        load_image(tmp_path / "a.png")
