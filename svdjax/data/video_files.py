"""Reader for video files, exact by frame number, with FFmpeg (through PyAV)."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError

from svdjax.data.frame_reader import Pixels, file_digest
from svdjax.data.video_pixels import UPRIGHT, Matrix, display_matrix, pixels
from svdjax.errors import InputError

_ONLY_FILES = {"protocol_whitelist": "file"}  # a playlist named .mp4 must not reach into the network
# Titles need not be UTF-8. PyAV 19 always reads them so.
_ANY_TITLE: dict[str, Any] = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
# FFmpeg's own decoders of these codecs ignore opacity that is stored beside the frames; the libraries' decoders read it.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_ALPHA_ID = 1  # of the additional data of a Matroska or WebM block
_WORTH_SEEKING = 48  # frames; below, decoding from the beginning costs less than finding the keyframes
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid", b"sidx", b"mfra", b"meta", b"udta")

digest = file_digest


def frames(path: str, start: int = 0, count: int | None = None) -> Iterator[Pixels]:
    """See `svdjax.data.frame_reader.FrameReader`. With a variable frame rate the stored frames are returned, not resampled.

    The display matrix is applied (rotation by multiples of 90 degrees and mirroring, as phones write it), and non-square pixels
    are made square. Colours follow the file's matrix and range; files without a matrix are read as players do, as BT.709 from
    1280 pixels wide or above 576 high, else as BT.601. Transparency is composited over white, also where VP8 and VP9 keep it
    beside the frames. High dynamic range (PQ, HLG) isn't mapped to sRGB and looks flat.

    Far into a long file, decoding starts at the codec's last keyframe at or before `start`, if the file's packets determine
    its number exactly (one packet per frame, distinct times, `count` packets); otherwise at the beginning.
    """
    try:
        _check_whole(path)
        yield from _frames(path, start, count)
    except (FFmpegError, OSError) as e:
        raise InputError(f"{path}: can't be read as a video ({e.strerror or e})") from None


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
    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.codec_context.thread_count = 1  # the worker processes are parallel already
        decoder, matrix = _alpha_decoder(path, container, stream)
        if seek_to is not None:
            container.seek(seek_to, stream=stream)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        for packet in container.demux(stream):
            for frame in packet.decode() if decoder is None else decoder.decode(packet):
                if seek_to is not None and (frame.pts is None or frame.pts < seek_to):
                    continue
                if frame.is_corrupt:
                    raise InputError(f"{path}: the video is damaged or cut short")
                yield frame.pts, functools.partial(pixels, path, frame, aspect, matrix or display_matrix(path, frame))


def _open(path: str) -> InputContainer:
    return av.open(path, options=_ONLY_FILES, **_ANY_TITLE)


def _alpha_decoder(
    path: str, container: InputContainer, stream: av.VideoStream
) -> tuple[av.VideoCodecContext | None, Matrix | None]:
    """Decoder for a stream with opacity beside its frames, and its display matrix, which the decoder doesn't know.

    Matroska and WebM store this opacity as additional data of the blocks. (None, None) for other streams.
    """
    if "matroska" not in container.format.name:
        return None, None
    codec, declared = stream.codec_context.name, stream.metadata.get("alpha_mode") == "1"
    with _open(path) as other:
        its_stream = _video_stream(path, other)
        packet = next(other.demux(its_stream), None)
        # Some writers declare it only in the header, some only in the blocks; for other codecs both are needed.
        signs = 0 if packet is None else declared + _has_alpha(packet)
        if packet is None or signs < (1 if codec in _ALPHA_DECODERS else 2):
            return None, None
        name = _ALPHA_DECODERS.get(codec, "")
        if name not in av.codecs_available:
            raise InputError(
                f"{path}: its transparency is stored beside its frames, expected it in them ({codec} can't be read)"
            )
        decoder = av.CodecContext.create(name, "r")
        assert isinstance(decoder, av.VideoCodecContext)
        decoder.thread_count = 1
        first = next(itertools.chain(packet.decode(), other.decode(its_stream)), None)
        return decoder, UPRIGHT if first is None else display_matrix(path, first)


def _has_alpha(packet: av.Packet) -> bool:
    if not packet.has_sidedata("matroska_block_additional"):
        return False
    return int.from_bytes(bytes(packet.get_sidedata("matroska_block_additional"))[:8], "big") == _ALPHA_ID


def _video_stream(path: str, container: InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise InputError(f"{path}: holds no video")
    if stream.codec_context is None:  # also where av's stub says otherwise
        raise InputError(f"{path}: its codec is unknown, expected a video that FFmpeg decodes")
    return stream


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
    with _open(path) as container:
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
