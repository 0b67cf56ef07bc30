"""The output formats mp4, gif, webp and folder of PNGs: their limits, writers and metadata readers.

A writer takes `(path, frames, fps, comment)`: a path that doesn't exist yet, uint8 (f, H, W, 3), frames per second, and a text
to store in the file. `svdjax.media.video` checks the arguments and makes the writing atomic.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

_EXIF_DESCRIPTION = 0x010E  # ImageDescription
_PNG_KEY = "Comment"  # a keyword registered by the PNG specification
_PALETTE_SAMPLES = 300_000  # pixels of the clip from which a gif's palette is computed
_WEBP_QUALITY = 95  # of 100, lossy
_BT709 = 1  # primaries and transfer in ITU-T H.273, tables 2 and 3
_H264_OPTIONS = {
    "crf": "17",  # visually lossless; x264's default is 23
    "preset": "slow",
    # The same frames must give the same file. x264's SIMD code for its macroblock tree uses memory that was never written:
    # this selects the exact code in its place. The number of threads, by default that of the CPU's cores, changes the file too.
    "x264-params": "cpu-independent=1",
    "threads": "4",
}


def frame_durations(count: int, fps: Fraction | int, units: int) -> list[int]:
    """Duration of each frame in 1/`units` seconds. The sum is within half a unit of count / fps."""
    ends = [round(i * units / fps) for i in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def write_mp4(path: Path, frames: np.ndarray, fps: Fraction, comment: str) -> None:
    """H.264 at the size of the frames, 8-bit 4:2:0 (sides must be even), tagged as BT.709 in limited range."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:  # index before the data
        container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=fps, options=_H264_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries = codec.color_trc = _BT709
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,  # the default, BT.601, would not match the tag
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_mp4(path: Path) -> str | None:
    import av

    with av.open(str(path)) as container:
        return container.metadata.get("comment")


def write_gif(path: Path, frames: np.ndarray, fps: Fraction, comment: str) -> None:
    """A looping gif with Floyd-Steinberg dither, and one palette for the whole clip, so that still parts keep their colour.

    The file is assembled here from Pillow's frames, because Pillow's own animations drop a frame that equals the previous
    frame.
    """
    from PIL import GifImagePlugin, Image

    height, width = frames.shape[1:3]
    samples = frames.reshape(-1, 3)[:: max(1, frames.size // (3 * _PALETTE_SAMPLES))]
    palette = Image.fromarray(samples[None]).quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)
    colours = bytes(palette.getpalette() or []).ljust(768, b"\0")
    with path.open("xb") as file:
        file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + colours)  # 0xF7: 256 shared colours
        file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # loop for ever
        file.write(b"\x21\xfe" + _gif_blocks(comment.encode()))
        for pixels, duration in zip(frames, frame_durations(len(frames), fps, 100), strict=True):
            dithered = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
            file.writelines(GifImagePlugin.getdata(dithered, duration=10 * duration, include_color_table=False))
        file.write(b";")


def _gif_blocks(data: bytes) -> bytes:
    """Sub-blocks of at most 255 bytes, ended by an empty one."""
    parts = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def read_gif(path: Path) -> str | None:
    from PIL import Image

    with Image.open(path) as image:
        comment = image.info.get("comment")
    return comment.decode() if comment else None


def write_webp(path: Path, frames: np.ndarray, fps: Fraction, comment: str) -> None:
    """A looping animated WebP, lossy at quality 95; the text is its EXIF image description.

    Assembled here from Pillow's still images (RIFF container of Google's WebP specification), because libwebp's own
    animations drop a frame that equals the previous frame.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    canvas = _uint24(width - 1) + _uint24(height - 1)
    chunks = [
        _riff_chunk(b"VP8X", bytes([0x02 | 0x08, 0, 0, 0]) + canvas),  # flags: animation, EXIF
        _riff_chunk(b"ANIM", struct.pack("<IH", 0, 0)),  # background colour, loop for ever
    ]
    for pixels, duration in zip(frames, frame_durations(len(frames), fps, 1000), strict=True):
        still = io.BytesIO()
        Image.fromarray(pixels).save(still, "WEBP", quality=_WEBP_QUALITY, method=4)
        header = _uint24(0) * 2 + canvas + _uint24(duration) + b"\x02"  # at (0, 0); replaces the previous frame, no blending
        chunks.append(_riff_chunk(b"ANMF", header + still.getvalue()[12:]))  # without the still's own RIFF header
    exif = Image.Exif()
    exif[_EXIF_DESCRIPTION] = comment
    chunks.append(_riff_chunk(b"EXIF", exif.tobytes().removeprefix(b"Exif\0\0")))  # the prefix belongs to JPEG
    path.write_bytes(_riff_chunk(b"RIFF", b"WEBP" + b"".join(chunks)))


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _riff_chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def read_webp(path: Path) -> str | None:
    from PIL import Image

    with Image.open(path) as image:
        return image.getexif().get(_EXIF_DESCRIPTION)


def write_pngs(path: Path, frames: np.ndarray, fps: Fraction, comment: str) -> None:
    """A new folder with 0000.png, 0001.png, ..., lossless, each with the text as its Comment. `fps` is not stored."""
    path.mkdir()
    write_png_frames(path, frames, comment)


def write_png_frames(folder: Path, frames: np.ndarray, comment: str | None = None) -> None:
    """0000.png, 0001.png, ... in an existing folder; see `write_png`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a frame of 1024x576 takes about 0.2 s of one core
        names = [folder / f"{i:04d}.png" for i in range(len(frames))]
        list(pool.map(lambda path, pixels: write_png(path, pixels, comment), names, frames))


def write_png(path: Path, pixels: np.ndarray, comment: str | None = None) -> None:
    """A lossless frame, uint8 (H, W, 3), with a text as its Comment."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if comment is not None:
        info.add_text(_PNG_KEY, comment)
    Image.fromarray(pixels).save(path, pnginfo=info)


def read_pngs(path: Path) -> str | None:
    from PIL import Image

    with Image.open(path / "0000.png") as image:
        return getattr(image, "text", {}).get(_PNG_KEY)  # an attribute of PNG images only


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """Functions and limits of one format.

    Attributes:
        write: the writer, see the module docstring.
        read_metadata: returns the stored text of a file (for PNGs, of a folder), or None.
        max_fps: highest frame rate that the format and common players support.
        max_side: pixels.
        even: whether width and height must be even.
    """

    write: Callable[[Path, np.ndarray, Fraction, str], None]
    read_metadata: Callable[[Path], str | None]
    max_fps: int
    max_side: int
    even: bool = False


FOLDER = "folder"
OUTPUT_FORMATS = {
    ".mp4": OutputFormat(write=write_mp4, read_metadata=read_mp4, max_fps=1000, max_side=16384, even=True),
    # Browsers show gif frames shorter than 2/100 s for 10/100 s.
    ".gif": OutputFormat(write=write_gif, read_metadata=read_gif, max_fps=50, max_side=65535),
    ".webp": OutputFormat(write=write_webp, read_metadata=read_webp, max_fps=1000, max_side=16383),
    FOLDER: OutputFormat(write=write_pngs, read_metadata=read_pngs, max_fps=1000, max_side=2**31 - 1),
}
