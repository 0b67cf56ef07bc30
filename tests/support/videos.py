"""Small videos with frames that show their own number, and sources from them, for the tests of training data."""

import re
import subprocess
import sys
from pathlib import Path
from typing import IO

import av
import numpy as np
from PIL import Image

from svdjax.data.discover import Candidate
from svdjax.data.motion import measure_source
from svdjax.data.sources import Source

SIZE = (32, 24)  # width, height
_BITS = 8


def coded_frames(count, size=SIZE):
    """uint8 (count, H, W, 3): frame i shows the 8 bits of i as black and white bars, the lowest bit on the left."""
    width, height = size
    bit = np.arange(width) * _BITS // width
    rows = [(255 * ((i >> bit) & 1)).astype(np.uint8) for i in range(count)]
    return np.stack([np.broadcast_to(row[None, :, None], (height, width, 3)) for row in rows])


def numbers(frames):
    """Decode the numbers that frames (f, H, W, 3) show, even after a lossy codec."""
    width = frames.shape[2]
    middles = (np.arange(_BITS) * 2 + 1) * width // (2 * _BITS)
    bars = frames.astype(float).mean((1, 3))
    bits = np.maximum(bars[:, middles], bars[:, np.maximum(middles - 1, 0)]) > 128
    return (bits @ (1 << np.arange(_BITS))).tolist()


def write_video(path, frames, codec="libx264", rate=25, aspect=None, **options):
    """Write uint8 (f, H, W, 3) with FFmpeg in the format of the file's ending. `options` are the codec's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder, frames, name="{}.png"):
    """Write a folder of PNGs named 0, 1, ..., 10, without leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / name.format(i))
    return folder


def write_gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(pixels) for pixels in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=40)
    return path


def source(path, kind="video", num_frames=2, stride=1, min_motion=0.0) -> Source:
    """The source at `path`, which must be usable."""
    result = measure_source(Candidate(path.name, str(path), kind), num_frames, stride, min_motion)
    assert isinstance(result, Source)
    return result


def run_python(code, *args):
    """Start a process that runs `code` and can import this project, its test helpers and the tests in tests/clips."""
    support = Path(__file__).parent
    path = [str(folder) for folder in (support.parents[1], support, support.parent / "clips")]
    code = f"import sys; sys.path[:0] = {path!r}\n{code}"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)


def output_of(process) -> IO[str]:
    """The standard output of a process from `run_python`."""
    assert process.stdout is not None
    return process.stdout


def is_running(pid):
    """Whether a process is alive and not a zombie."""
    try:
        state = re.search(r"\)\s(\S)", Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return False
    return state is not None and state[1] not in "ZX"
