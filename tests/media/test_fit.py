"""Sizes and fitting. References: Pillow's resize, ramps with known positions, and slices."""

import numpy as np
import pytest
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.fit import FITS, check_size, default_size, describe_fit, fit, parse_size


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height, width):
    """Red grows with x from 0 to 200, green with y from 0 to 100, so colours encode positions."""
    y, x = np.mgrid[:height, :width]
    return np.round(np.stack([(x + 0.5) / width * 200, (y + 0.5) / height * 100, 0 * x], -1)).astype(np.uint8)


@pytest.mark.parametrize("mode", FITS)
def test_an_image_at_size_passes_bit_for_bit(mode):
    image = noise(48, 80)
    np.testing.assert_array_equal(fit(image, (80, 48), mode), image)
    assert describe_fit("a.png", image.shape, (80, 48), mode) is None


@pytest.mark.parametrize("mode", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1000), (1000, 3), (47, 80), (48, 81), (480, 800), (5, 7), (96, 160)])
def test_every_shape_comes_out_at_size(mode, shape):
    for size in ((80, 48), (48, 80), (64, 64)):
        out = fit(noise(*shape), size, mode)
        assert out.shape == (size[1], size[0], 3)
        assert out.dtype == np.uint8
        assert out.flags.writeable
        assert describe_fit("a.png", shape, size, mode)


@pytest.mark.parametrize("mode", FITS)
def test_the_same_proportions_are_only_scaled_by_lanczos(mode):
    image = noise(96, 160)
    expected = np.asarray(Image.fromarray(image).resize((80, 48), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(fit(image, (80, 48), mode), expected)
    assert describe_fit("a.png", image.shape, (80, 48), mode) == "a.png 160x96: scaled to 80x48"


def test_stretch_is_lanczos_over_the_whole_image():
    image = noise(100, 60)
    expected = np.asarray(Image.fromarray(image).resize((80, 48), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(fit(image, (80, 48), "stretch"), expected)


def test_crop_keeps_the_centre():
    # 300x100 to 80x48: scale 0.48, 166.67 of 300 columns kept, from 66.67 to 233.33, which is 22 % to 78 % of the ramp.
    out = fit(ramp(100, 300), (80, 48), "crop").astype(float)
    columns, rows = out[..., 0].mean(0), out[..., 1].mean(1)
    assert abs(columns[0] - 200 * (66.67 + 166.67 * 0.5 / 80) / 300) < 1  # rounding twice
    assert abs(columns[-1] - 200 * (66.67 + 166.67 * 79.5 / 80) / 300) < 1
    assert abs(rows[0] - 100 * 0.5 / 48) < 1
    assert abs(rows[-1] - 100 * 47.5 / 48) < 1
    out = fit(ramp(300, 100), (80, 48), "crop").astype(float)
    # 300 high, 60 rows kept, from 120 to 180.
    assert abs(out[0, :, 1].mean() - 100 * (120 + 60 * 0.5 / 48) / 300) < 1
    assert abs(out[-1, :, 1].mean() - 100 * (120 + 60 * 47.5 / 48) / 300) < 1
    assert abs(out[:, 0, 0].mean() - 200 * 0.5 / 80) < 1


@pytest.mark.parametrize("extra", [1, 2, 13])
def test_crop_without_scaling_copies_pixels(extra):
    image = noise(48 + extra, 80)
    np.testing.assert_array_equal(fit(image, (80, 48), "crop"), image[extra // 2 : extra // 2 + 48])
    note = describe_fit("a.png", image.shape, (80, 48))
    assert note is not None
    assert note.startswith(f"a.png 80x{48 + extra}: cropped to 80x48, ")
    image = noise(48, 80 + extra)
    np.testing.assert_array_equal(fit(image, (80, 48), "crop"), image[:, extra // 2 : extra // 2 + 80])


def test_pad_puts_the_whole_image_between_bars():
    image = ramp(100, 300)
    out = fit(image, (80, 48), "pad", colour=(1, 2, 250))
    # 80 wide, so 26.67 high, which is 27: rows 10 to 36.
    inner = np.asarray(Image.fromarray(image).resize((80, 27), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(out[10:37], inner)
    assert (out[:10] == (1, 2, 250)).all()
    assert (out[37:] == (1, 2, 250)).all()
    out = fit(ramp(300, 100), (80, 48), "pad")
    assert (out[:, :32] == 0).all()
    assert (out[:, 48:] == 0).all()
    assert out[:, 32:48, 0].max() > 180


def test_pad_without_scaling_copies_pixels():
    image = noise(40, 80)
    out = fit(image, (80, 48), "pad")
    np.testing.assert_array_equal(out[4:44], image)
    assert describe_fit("a.png", image.shape, (80, 48), "pad") == "a.png 80x40: padded to 80x48, bars on 17% of its height"


def test_reduction_is_antialiased():
    """Stripes of one pixel average to grey; without antialiasing they would stay black or white."""
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    out = fit(stripes, (50, 50))
    assert np.abs(out[5:-5, 5:-5].astype(int) - 127.5).max() < 3


@pytest.mark.parametrize(
    ("shape", "size", "mode", "note"),
    [
        ((3000, 4000), (1024, 576), "crop", "cat.png 4000x3000: scaled and cropped to 1024x576, 25% of its height cut"),
        ((3000, 4000), (576, 1024), "crop", "cat.png 4000x3000: scaled and cropped to 576x1024, 58% of its width cut"),
        ((577, 1024), (1024, 576), "crop", "cat.png 1024x577: cropped to 1024x576, under 1% of its height cut"),
        ((3000, 4000), (1024, 576), "pad", "cat.png 4000x3000: scaled and padded to 1024x576, bars on 25% of its width"),
        ((3000, 4000), (1024, 576), "stretch", "cat.png 4000x3000: stretched to 1024x576, 33% wider than it was"),
        ((1000, 4000), (1024, 512), "stretch", "cat.png 4000x1000: stretched to 1024x512, 50% narrower than it was"),
        ((288, 512), (1024, 576), "crop", "cat.png 512x288: scaled to 1024x576"),
    ],
)
def test_notes(shape, size, mode, note):
    assert describe_fit("cat.png", (*shape, 3), size, mode) == note


def test_unknown_mode():
    for call in (lambda: fit(noise(4, 4), (8, 8), "zoom"), lambda: describe_fit("a", (4, 4), (8, 8), "zoom")):
        with pytest.raises(InputError, match="fit is 'zoom', expected one of crop, pad, stretch"):
            call()


def test_parse_size():
    assert parse_size("1024x576") == (1024, 576)
    assert parse_size(" 64X128 ") == (64, 128)


@pytest.mark.parametrize(
    "text",
    ["", "1024", "x576", "1024x", "0x576", "1024x0", "-64x64", "64.5x64", "64x64x3", "1024,576", "٦٤x٦٤", "9999999999x64"],
)
def test_invalid_sizes(text):
    with pytest.raises(InputError, match="expected WIDTHxHEIGHT in pixels, such as 1024x576"):
        parse_size(text)


def test_check_size_passes_multiples():
    check_size(1024, 576, 64)
    check_size(16, 48, 16)


@pytest.mark.parametrize(
    ("width", "height", "nearest"),
    [
        (1000, 576, "1024x576 or 960x576"),
        (1024, 570, "1024x576 or 1024x512"),
        (1000, 570, "1024x576 or 960x576"),
        (10, 10, "64x64"),
        (0, 576, "64x576"),
        (-100, 576, "64x576"),
        (1, 100, "64x128 or 64x64"),
    ],
)
def test_check_size_names_the_nearest(width, height, nearest):
    with pytest.raises(InputError) as caught:
        check_size(width, height, 64)
    assert str(caught.value) == f"size {width}x{height}: both sides must be multiples of 64; nearest: {nearest}"


def test_default_size_turns_with_the_first_keyframe():
    assert default_size((300, 400, 3)) == (1024, 576)
    assert default_size((400, 300, 3)) == (576, 1024)
    assert default_size((300, 300, 3)) == (1024, 576)
    assert default_size((400, 300, 3), (128, 192)) == (128, 192)
    assert default_size((300, 400, 3), (128, 192)) == (192, 128)
    assert default_size((300, 300, 3), (128, 192)) == (128, 192)
    assert default_size((400, 300, 3), (512, 512)) == (512, 512)


@pytest.mark.parametrize("size", [[8, 4], np.array([8, 4]), (np.int64(8), np.uint8(4))])
def test_sizes_of_numpy(size):
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    np.testing.assert_array_equal(fit(image, size), fit(image, (8, 4)))
    assert fit(image, np.array([6, 6])) is image


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (8.5, 8), (8,), 8, "88", None, (True, 8)])
def test_impossible_sizes(size):
    with pytest.raises(InputError, match=r"^size is .*, expected two whole numbers above 0, width and height$"):
        fit(np.zeros((4, 4, 3), np.uint8), size)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), None])
def test_impossible_images(image):
    with pytest.raises(InputError, match=r"^image is .*, expected uint8 \(H, W, 3\)$"):
        fit(image, (8, 8))
