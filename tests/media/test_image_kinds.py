"""Raw photographs, TIFFs that begin with a preview, and HEIC images."""

import struct
import sys

import numpy as np
import pytest
from media import smooth_picture
from PIL import Image

from svdjax.errors import InputError
from svdjax.media.images import load_image

SUBFILE_TYPE, SUB_IFDS, PHOTOMETRIC, DNG_VERSION = 254, 330, 262, 50706
RAW = "is a raw photograph, expected a developed image; export it as PNG, JPEG or TIFF first"


def tiff(*pages, beside=()):
    """A little-endian TIFF of RGB pages (pixels (H, W, 3), {tag: value}); `beside`: pages that only the first refers to."""
    data = bytearray(b"II*\0" + bytes(4))

    def page(pixels, tags):
        strip = len(data)
        data.extend(pixels.tobytes() + bytes(pixels.size % 2))
        height, width = pixels.shape[:2]
        bits = len(data)
        data.extend(struct.pack("<3H", 8, 8, 8) + bytes(2))
        entries = {256: width, 257: height, 259: 1, 262: 2, 273: strip, 277: 3, 278: height, 279: pixels.size, **tags}
        start = len(data)
        data.extend(struct.pack("<H", len(entries) + 1))
        for tag, value in sorted([*entries.items(), (258, None)]):
            data.extend(struct.pack("<HHII", tag, 4, 1, value) if value is not None else struct.pack("<HHII", tag, 3, 3, bits))
        data.extend(bytes(4))
        return start, len(data) - 4

    offsets = [page(*other)[0] for other in beside]
    link = 4
    for i, (pixels, tags) in enumerate(pages):
        tags = {**tags, SUB_IFDS: offsets[0]} if offsets and i == 0 else tags
        start, next_link = page(pixels, tags)
        data[link : link + 4] = struct.pack("<I", start)
        link = next_link
    return bytes(data)


@pytest.fixture
def full():
    return smooth_picture()


@pytest.fixture
def small(full):
    return np.ascontiguousarray(full[::5, ::4])


def refusal(path):
    with pytest.raises(InputError) as caught:
        load_image(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_raw_photographs(tmp_path, full, small):
    plain = tiff((small, {}))
    cases = {
        "a.dng": tiff((small, {DNG_VERSION: 0x00000401, SUBFILE_TYPE: 1})),
        "b.dng": tiff((full, {DNG_VERSION: 0x00000401, PHOTOMETRIC: 34892})),
        "a.nef": tiff((small, {SUBFILE_TYPE: 1}), beside=[(full, {PHOTOMETRIC: 32803})]),
        "a.arw": tiff((small, {}), beside=[(full, {PHOTOMETRIC: 32803})]),
        "a.cr2": plain[:8] + b"CR\2\0" + plain[12:],
        "a.cr3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
        "a.raf": b"FUJIFILMCCD-RAW 0201" + bytes(100),
        "a.rw2": b"IIU\0\x18\0\0\0" + bytes(100),
        "a.orf": b"IIRO\x08\0\0\0" + bytes(100),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        assert refusal(tmp_path / name) == RAW, name


def test_a_tiff_that_begins_with_a_preview(tmp_path, full, small):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((small, {SUBFILE_TYPE: 1}), (full, {SUBFILE_TYPE: 0})))
    image, notes = load_image(path)
    np.testing.assert_array_equal(image, full)
    assert notes == [f"{path}: holds 2 images, image 2 is used, those before it are previews"]
    path.write_bytes(tiff((small, {}), beside=[(full, {})]))
    assert refusal(path).startswith("its first image, 11x6, is a preview of one with 44x30, expected the full image first;")
    path.write_bytes(tiff((small, {SUBFILE_TYPE: 1})))
    assert refusal(path).startswith("holds only previews (its NewSubfileType is 1), expected a full image;")


def test_a_tiff_that_begins_with_the_full_image(tmp_path, full, small):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((full, {}), (small, {SUBFILE_TYPE: 1})))
    image, notes = load_image(path)
    np.testing.assert_array_equal(image, full)
    assert notes == [f"{path}: holds 2 frames, the first is used"]
    path.write_bytes(tiff((full, {}), beside=[(small, {SUBFILE_TYPE: 1})]))
    np.testing.assert_array_equal(load_image(path)[0], full)


@pytest.mark.parametrize("length", range(0, 20, 3))
def test_damaged_lists_of_brands(tmp_path, length):
    (tmp_path / "a.heic").write_bytes(length.to_bytes(4, "big") + b"ftypheic" + bytes(100))
    with pytest.raises(InputError, match=r"a\.heic: (the image is damaged or cut short|is a video|is a HEIC image)"):
        load_image(tmp_path / "a.heic")


def test_tiffs_with_damaged_directories(tmp_path):
    for data in (b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\1\0\x4a\1\4\0\1\0\0\0\x08\0\0\0", b"MM\0+" + bytes(30)):
        (tmp_path / "a.tif").write_bytes(data + bytes(100))
        assert "not an image of a supported format" in refusal(tmp_path / "a.tif")


# HEIC


def test_heic_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    message = (
        'is a HEIC image, expected the package pillow-heif to read it: pip install -e ".[heic]", or save it as PNG or JPEG'
    )
    assert refusal(tmp_path / "a.heic") == message


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_upright(tmp_path, heif, full, orientation):
    """The file is stored turned, with the properties irot and imir, and with the same orientation in EXIF, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = heif.from_bytes("RGB", full.shape[1::-1], full.tobytes())
    file[0].info["exif"] = exif.tobytes()
    file.save(tmp_path / "a.heic", quality=-1, chroma=444)
    turned = Image.fromarray(full)
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # of Image.transpose
    expected = np.asarray(turned if method is None else turned.transpose(Image.Transpose(method)))
    image, notes = load_image(tmp_path / "a.heic")
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= 2  # the conversion to YCbCr and back
    assert notes == []


@pytest.mark.parametrize("bits", [10, 12])
def test_heic_with_more_bits(tmp_path, heif, bits):
    values = np.linspace(0, 65535, 44 * 30).astype(np.uint16).reshape(30, 44, 1).repeat(3, 2)
    path = tmp_path / "a.heic"
    heif.from_bytes("RGB;16", (44, 30), values.tobytes()).save(path, quality=-1, chroma=444, bit_depth=bits)
    image, notes = load_image(path)
    assert np.abs(image - values / 257).max() < 1
    assert image.max() == 255
    assert notes == [f"{path}: {bits} bits per channel scaled to 8"]


def test_heic_with_opacity_grey_and_several_images(tmp_path, heif, full):
    path = tmp_path / "a.heic"
    rgba = np.dstack([full, np.full(full.shape[:2], 128, np.uint8)])
    heif.from_bytes("RGBA", (44, 30), rgba.tobytes()).save(path, quality=-1, chroma=444)
    image, notes = load_image(path, (0, 0, 0))
    assert np.abs(image - full * (128 / 255)).max() <= 2
    assert "transparent parts" in notes[0]
    grey = np.ascontiguousarray(full[..., 0])
    heif.from_bytes("L", (44, 30), grey.tobytes()).save(path, quality=-1)
    assert np.abs(load_image(path)[0].astype(int) - grey[..., None]).max() <= 1
    two = heif.from_bytes("RGB", (44, 30), bytes(full.size))
    two.add_from_pillow(Image.fromarray(full))
    two.save(path, quality=-1, chroma=444, primary_index=1)
    image, notes = load_image(path)
    assert np.abs(image.astype(int) - full).max() <= 2
    assert notes == [f"{path}: holds 2 images, the main one is used"]


def test_heic_colours(tmp_path, heif, full):
    path = tmp_path / "a.heic"
    file = heif.from_bytes("RGB", (44, 30), full.tobytes())
    file.save(path, quality=-1, chroma=444, color_primaries=12, transfer_characteristics=13)
    assert "converted to sRGB from its colour tags (primaries 12, transfer 13)" in load_image(path)[1][0]
    file.save(path, quality=-1, chroma=444, color_primaries=9, transfer_characteristics=16)
    assert "high dynamic range (PQ)" in refusal(path)


@pytest.mark.parametrize("kept", [60, 300, -20])
def test_truncated_heic(tmp_path, heif, full, kept):
    path = tmp_path / "a.heic"
    heif.from_bytes("RGB", (44, 30), full.tobytes()).save(path, quality=-1, chroma=444)
    path.write_bytes(path.read_bytes()[:kept])
    assert "the image is damaged or cut short (" in refusal(path)


def test_too_many_pixels_in_a_heic(tmp_path, heif, full, monkeypatch):
    monkeypatch.setattr("svdjax.media.images.MAX_PIXELS", 1000)
    heif.from_bytes("RGB", (44, 30), full.tobytes()).save(tmp_path / "a.heic")
    assert refusal(tmp_path / "a.heic").startswith("44x30 pixels, expected at most ")


def test_avif_with_a_general_brand_is_not_heic(tmp_path, full):
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("not supported by this build of Pillow")
    Image.fromarray(full).save(tmp_path / "a.avif", quality=95)
    data = (tmp_path / "a.avif").read_bytes()
    assert data[8:12] == b"avif"
    (tmp_path / "a.avif").write_bytes(data[:8] + b"mif1" + data[12:])
    assert np.abs(load_image(tmp_path / "a.avif")[0].astype(int) - full).mean() < 3
