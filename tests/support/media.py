"""Helpers for tests of images and clips: test pictures, readers for every output format, a process without privileges."""

import contextlib
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data

NAMES = ("clip.mp4", "clip.gif", "clip.webp", "clip")  # one output in every format
_NOBODY = 65534


def smooth_picture():
    """A picture with smooth colours and without symmetry: uint8 (30, 44, 3)."""
    y, x = np.mgrid[:30, :44]
    return np.stack([x * 5, y * 8, 255 - x * 2 - y * 3], -1).astype(np.uint8)


def png(array, bits, colour_type, *chunks):
    """PNG bytes of integers (H, W) or (H, W, C), unfiltered. Pillow can't write most of these types."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = array.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in array]
    else:
        spread = np.unpackbits(array.astype(np.uint8).reshape(height, -1, 1), axis=-1)[..., 8 - bits :]
        rows = [np.packbits(row).tobytes() for row in spread.reshape(height, -1)]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def moving_photo():
    """A photograph that moves to the right by 2 pixels per frame: uint8 (9, 112, 208, 3)."""
    picture = np.asarray(Image.fromarray(data.astronaut()).crop((100, 0, 308, 112)))
    return np.stack([np.roll(picture, 2 * i, 1) for i in range(9)])


def read_clip(path):
    """Frames uint8 (f, H, W, 3), and their durations in seconds (none for a folder)."""
    if path.is_dir():
        names = sorted(os.listdir(path))
        assert names == [f"{i:04d}.png" for i in range(len(names))]
        return np.stack([np.asarray(Image.open(path / n)) for n in names]), []
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.time_base is not None
            assert stream.duration is not None
            decoded = list(container.decode(video=0))
            times = [float(frame.pts * stream.time_base) for frame in decoded if frame.pts is not None]
            ends = [*times[1:], float(stream.duration * stream.time_base)]
        frames = [_bt709_to_rgb(frame.to_ndarray(), frame.height, frame.width) for frame in decoded]
        return np.stack(frames), [end - start for start, end in zip(times, ends, strict=True)]
    frames, durations = [], []
    with Image.open(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"] / 1000)
    return np.stack(frames), durations


def _bt709_to_rgb(planes, height, width):
    """Convert stacked planes of yuv420p in limited range to uint8 (H, W, 3): ITU-R BT.709-6, items 3.2 to 3.5."""
    flat = planes.reshape(-1).astype(float)
    y = (flat[: height * width].reshape(height, width) - 16) / 219
    chroma = (flat[height * width :].reshape(2, height // 2, width // 2) - 128) / 224
    cb, cr = chroma.repeat(2, 1).repeat(2, 2)
    red, blue = y + 1.5748 * cr, y + 1.8556 * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.clip(np.round(np.stack([red, green, blue], -1) * 255), 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Within the context root acts as the user nobody; other users stay as they are."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(_NOBODY)
    except OSError:
        pytest.skip("root can't act as another user here, and can read everything")
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter and list (pytest's folders are private to their owner)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
