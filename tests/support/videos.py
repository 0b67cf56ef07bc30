"""Small videos whose frames tell their own number, and sources made of them, for the tests of training data."""

import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from svdjax.data.discover import Place
from svdjax.data.motion import measure

SIZE = (32, 24)  # width, height
_BITS = 8


def coded_frames(count, size=SIZE):
    """uint8 (count, H, W, 3): frame i shows the 8 bits of i as black and white bars, the lowest on the left."""
    width, height = size
    bit = np.arange(width) * _BITS // width
    rows = [(255 * ((i >> bit) & 1)).astype(np.uint8) for i in range(count)]
    return np.stack([np.broadcast_to(row[None, :, None], (height, width, 3)) for row in rows])


def numbers(frames):
    """The numbers that frames (f, H, W, 3) show, whatever lossy codec they went through."""
    width = frames.shape[2]
    middles = (np.arange(_BITS) * 2 + 1) * width // (2 * _BITS)
    bars = frames.astype(float).mean((1, 3))
    bits = np.maximum(bars[:, middles], bars[:, np.maximum(middles - 1, 0)]) > 128
    return (bits @ (1 << np.arange(_BITS))).tolist()


def write_video(path, frames, codec="libx264", rate=25, aspect=None, **options):
    """Write uint8 (f, H, W, 3) through FFmpeg, in the format of the file's ending. Options are the codec's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder, frames, name="{}.png"):
    """A folder of PNGs named 0, 1, ..., 10, without leading zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / name.format(i))
    return folder


def write_gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(pixels) for pixels in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=40)
    return path


def source(path, kind="video", num_frames=2, stride=1, min_motion=0):
    """A source at `path`, read."""
    return measure(Place(path.name, str(path), kind), num_frames, stride, min_motion)


def run_python(code, *args):
    """Start a process that runs `code` with this project importable."""
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path[:0] = [{root!r}, {root + '/tests/support'!r}]\n{code}"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)


def is_running(pid):
    """Whether a process lives; one that ended and waits to be collected doesn't."""
    try:
        state = re.search(r"\)\s(\S)", Path(f"/proc/{pid}/stat").read_text())[1]
    except OSError:
        return False
    return state not in "ZX"
