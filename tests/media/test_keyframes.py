"""Keyframes from Python: arrays, Pillow images and paths give the same pixels; others are refused."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from media import smooth_picture
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.images import load_image
from svdjax.media.keyframes import pixels_of


class OnDevice:
    """Like PyTorch's tensors on a GPU."""

    def __array__(self, *args, **kwargs):
        raise TypeError("copy it to the CPU first")


def test_every_kind_gives_the_same_pixels(tmp_path):
    picture = smooth_picture()
    Image.fromarray(picture).save(tmp_path / "a.png")
    for given in (picture, jnp.asarray(picture), Image.fromarray(picture), tmp_path / "a.png", str(tmp_path / "a.png")):
        pixels = pixels_of("keyframe 1", given)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, picture)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(pixels_of("keyframe 1", opened), picture)
    batch = np.stack([picture, picture])
    assert pixels_of("keyframe 1", batch) is batch


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_pillow_images_are_read_like_files(tmp_path, mode):
    picture = Image.fromarray(smooth_picture())
    if mode in ("RGBA", "LA"):
        picture.putalpha(100)
    picture = picture.convert(mode)
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(file, **({} if mode == "CMYK" else {"exif": exif}))
    with Image.open(file) as opened:
        np.testing.assert_array_equal(pixels_of("keyframe 1", opened), load_image(file)[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"keyframe 2 is float32 \(4, 4, 3\), expected uint8 \(H, W, 3\); scale its values"),
        (np.zeros((4, 4, 3), int), r"keyframe 2 is int64 \(4, 4, 3\), expected uint8"),
        (np.zeros((4, 4), np.uint8), r"keyframe 2 is uint8 \(4, 4\), expected uint8 \(H, W, 3\)$"),
        (np.zeros((4, 4, 4), np.uint8), r"keyframe 2 is uint8 \(4, 4, 4\), expected uint8 \(H, W, 3\)$"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), r"keyframe 2 is uint8 \(1, 1, 4, 4, 3\), expected"),
        (None, r"keyframe 2 is a NoneType, expected a uint8 array \(H, W, 3\), a Pillow image or a path"),
        (["a.png", "b.png"], r"keyframe 2 is a list, expected a uint8 array"),
        (3, r"keyframe 2 is a int, expected a uint8 array"),
        (Image.new("F", (4, 4)), r"keyframe 2: its pixels are floats"),
        (Path("no.png"), r"no\.png: no such file"),
        (OnDevice(), r"keyframe 2 can't be converted to a NumPy array \(copy it to the CPU first\)"),
    ],
)
def test_others_are_refused(given, message):
    with pytest.raises(InputError, match=f"^{message}") as error:
        pixels_of("keyframe 2", given)
    assert "\n" not in str(error.value)
