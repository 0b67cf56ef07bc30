"""Recognition of files that need more than Pillow: videos, raw photographs, HEIC, and TIFFs that begin with a preview."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from svdjax.errors import InputError

if TYPE_CHECKING:
    from PIL import TiffImagePlugin

# Brands of an ISO base media file (ISO/IEC 14496-12, 4.3).
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"heif", b"mif1", b"mif2", b"msf1"}
_CANON_RAW = b"crx "
_QUICKTIME_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"FLV\x01", b"OggS", b"\x30\x26\xb2\x75")
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 256, 257, 262, 330, 50706
_RAW_PHOTOMETRIC = (32803, 34892)  # colour filter array, LinearRaw


def check_image(name: str, file: BinaryIO) -> bool:
    """Refuse videos, raw photographs, and TIFFs that contain only a preview as an ordinary image.

    Returns:
        Whether the file is a HEIC image, which needs another library than Pillow.

    Raises:
        InputError: the file is refused; the message says what it is.
    """
    head = file.read(32)
    brands = _brands(file)
    file.seek(0)
    if _CANON_RAW in brands or head.startswith(_RAW_STARTS) or (head.startswith(_TIFF_STARTS) and head[8:10] == b"CR"):
        raise _raw(name)
    avif, heic = bool(brands & _AVIF), bool(brands & _HEIC)
    quicktime = head[4:8] in _QUICKTIME_ATOMS and not avif and not heic
    if quicktime or head.startswith(_VIDEO_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        raise InputError(f"{name}: is a video, expected an image; save one of its frames as PNG first")
    if head.startswith(_TIFF_STARTS):
        try:
            _check_tiff(name, file)
        except InputError:
            raise
        except Exception:  # damaged: the reader of the image says how
            pass
        file.seek(0)
    return heic and not avif


def _brands(file: BinaryIO) -> set[bytes]:
    file.seek(0)
    box = file.read(8)
    if box[4:] != b"ftyp":
        return set()
    names = file.read(max(0, min(int.from_bytes(box[:4], "big"), 512) - 8))
    return {names[i : i + 4] for i in range(0, len(names), 4) if i != 4}  # the second is a version


def _raw(name: str) -> InputError:
    return InputError(f"{name}: is a raw photograph, expected a developed image; export it as PNG, JPEG or TIFF first")


def _check_tiff(name: str, file: BinaryIO) -> None:
    """Cameras store a preview as the first image of a TIFF, and their raw data elsewhere in it."""
    directories = [first := _directory(file, None)]
    offsets = first.get(_SUB_IFDS, ())
    directories += [_directory(file, offset) for offset in (offsets if isinstance(offsets, tuple) else (offsets,))[:64]]
    if _DNG_VERSION in first or any(d.get(_PHOTOMETRIC) in _RAW_PHOTOMETRIC for d in directories):
        raise _raw(name)
    width, height = first.get(_WIDTH, 0), first.get(_HEIGHT, 0)
    largest = max(directories, key=lambda d: d.get(_WIDTH, 0) * d.get(_HEIGHT, 0))
    if largest.get(_WIDTH, 0) * largest.get(_HEIGHT, 0) > width * height:
        other = f"{largest[_WIDTH]}x{largest[_HEIGHT]}"
        raise InputError(
            f"{name}: its first image, {width}x{height}, is a preview of one with {other}, expected the full image first; "
            "save it as PNG or JPEG"
        )


def _directory(file: BinaryIO, offset: int | None) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of one image; of the first without an offset."""
    from PIL import TiffImagePlugin

    file.seek(0)
    head = file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head + file.read(8) if head[2:3] == b"+" or head[3:4] == b"+" else head)
    file.seek(directory.next if offset is None else offset)
    directory.load(file)
    return directory


def first_full_page(name: str, image: TiffImagePlugin.TiffImageFile) -> int:
    """Number of the first page that isn't a preview (bit 0 of NewSubfileType, TIFF 6.0). Moves to that page.

    Raises:
        InputError: all are previews.
    """
    for page in range(image.n_frames):
        image.seek(page)
        if not image.tag_v2.get(_SUBFILE_TYPE, 0) & 1:
            return page
    raise InputError(f"{name}: holds only previews (its NewSubfileType is 1), expected a full image; save it as PNG or JPEG")
