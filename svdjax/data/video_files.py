"""Reader for video files, exact by frame number, with FFmpeg (through PyAV)."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import struct
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from svdjax.data.frame_reader import Pixels, file_digest
from svdjax.errors import InputError, one_line
from svdjax.media.image_pixels import composite
from svdjax.media.images import WHITE

_ONLY_FILES = {"protocol_whitelist": "file"}  # a playlist named .mp4 must not reach into the network
_WORTH_SEEKING = 48  # frames; below, decoding from the beginning costs less than finding the keyframes
_MATRICES = {  # ITU-T H.273, table 4
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# With chroma interpolation and accurate rounding; swscale's faster default is 1 to 1.5 levels too dark.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"sidx", b"mfra", b"meta", b"udta")

digest = file_digest


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. With a variable frame rate the stored frames are returned, not resampled.

    Rotation by multiples of 90 degrees (phones) is applied, and non-square pixels are made square. Colours follow the file's
    matrix and range; files without a matrix are read as players do, as BT.709 from 1280 pixels wide or above 576 high, else as
    BT.601. Transparency is composited over white. High dynamic range (PQ, HLG) isn't mapped to sRGB and looks flat.

    Far into a long file, decoding starts at the codec's last keyframe at or before `start`, if the file's packets determine
    its number exactly (one packet per frame, distinct times, `count` packets); otherwise at the beginning.
    """
    try:
        _check_whole(path)
        yield from _frames(path, start, count)
    except (FFmpegError, OSError) as e:
        raise InputError(f"{path}: can't be read as a video ({one_line(e.strerror or e)})") from None


def _frames(path: str, start: int, count: int | None) -> Iterator[Pixels]:
    number, time = _keyframe(path, start, count)
    if time is not None:
        decoded = _decode(path, time)
        first = next(decoded, None)
        if first is not None and first[0] == time:  # otherwise the seek missed the keyframe
            yield from (pixels for _, pixels in itertools.islice(itertools.chain([first], decoded), start - number, None))
            return
    yield from (pixels for _, pixels in itertools.islice(_decode(path), start, None))


def _decode(path: str, seek_to: int | None = None) -> Iterator[tuple[int | None, Pixels]]:
    """Times (in the stream's time base) and pixels of the frames in display order, from the keyframe at time `seek_to` on."""
    with av.open(path, options=_ONLY_FILES) as container:
        stream = _video_stream(path, container)
        stream.codec_context.thread_count = 1  # the worker processes are parallel already
        if seek_to is not None:
            container.seek(seek_to, stream=stream)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        for frame in container.decode(stream):
            if seek_to is not None and (frame.pts is None or frame.pts < seek_to):
                continue
            if frame.is_corrupt:
                raise InputError(f"{path}: the video is damaged or cut short")
            yield frame.pts, functools.partial(_pixels, path, frame, aspect)


def _video_stream(path: str, container: InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise InputError(f"{path}: holds no video")
    return stream


def _pixels(path: str, frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    try:
        pixels = _to_rgb(frame)
    except (FFmpegError, ValueError) as e:
        raise InputError(f"{path}: its pixels ({frame.format.name}) can't be read ({one_line(e)})") from None
    if aspect != 1:
        size = (max(1, round(pixels.shape[1] * aspect)), pixels.shape[0])
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))  # both counter-clockwise


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    wide = frame.width >= 1280 or frame.height > 576
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    colours = {
        "src_colorspace": _MATRICES.get(frame.colorspace, Colorspace.ITU709 if wide else Colorspace.ITU601),
        "src_color_range": ColorRange.JPEG if full or frame.format.is_rgb else ColorRange.MPEG,
        "interpolation": _SCALING,
    }
    if any(component.is_alpha for component in frame.format.components):
        rgba = frame.to_ndarray(format="rgba", **colours)
        return composite(rgba[..., :3], rgba[..., 3], WHITE)
    return frame.to_ndarray(format="rgb24", **colours)


def _keyframe(path: str, start: int, count: int | None) -> tuple[int, int | None]:
    """Number and time of the codec's keyframe at which decoding starts; (0, None) for the beginning."""
    if start < _WORTH_SEEKING or count is None:
        return 0, None
    times, keyframes = _packets(path, os.stat(path).st_mtime_ns)
    if len(times) != count:
        return 0, None
    numbers = [bisect.bisect_left(times, time) for time in keyframes]
    i = bisect.bisect_right(numbers, start) - 1
    return (numbers[i], keyframes[i]) if i > 0 else (0, None)


@functools.lru_cache(maxsize=256)
def _packets(path: str, _modified: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sorted times of all packets, and of the keyframes, without decoding. Empty if the times don't determine frame numbers."""
    with av.open(path, options=_ONLY_FILES) as container:
        stream = _video_stream(path, container)
        packets = [(p.pts, p.is_keyframe, p.is_discard) for p in container.demux(stream) if p.size]  # the last packet is empty
    times = {time for time, _, _ in packets if time is not None}
    if len(times) < len(packets) or any(discarded for _, _, discarded in packets):
        return (), ()
    return tuple(sorted(times)), tuple(sorted(time for time, key, _ in packets if key and time is not None))


def _check_whole(path: str) -> None:
    """Refuse an mp4 or mov that ends inside a box (ISO/IEC 14496-12, 4.2); FFmpeg would read it as a shorter video."""
    size, position = os.path.getsize(path), 0
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    with open(path, "rb") as file:
        while position + 16 <= size:
            file.seek(position)
            length, name, long = struct.unpack(">I4sQ", file.read(16))
            length = long if length == 1 else length
            if name not in _BOXES or length < 8:  # another format, or a last box of unspecified length
                return
            position += length
    if position > size:
        raise InputError(f"{path}: the video is cut short: {size} bytes, expected at least {position}")
