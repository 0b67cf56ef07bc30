"""The same frames give the same file, byte for byte, whatever the memory contained before."""

import contextlib
import ctypes
import hashlib

import numpy as np
import pytest
from media import moving_photo
from PIL import Image

from svdjax.media.output_plan import plan_output
from svdjax.media.video import write_video

_M_PERTURB = -6  # mallopt(3): fill new memory with the complement of a byte


@contextlib.contextmanager
def new_memory_filled():
    """A function that selects the byte for new memory. glibc only; the tests are skipped elsewhere."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("this C library can't fill new memory")
    try:
        yield lambda byte: mallopt(_M_PERTURB, byte)
    finally:
        mallopt(_M_PERTURB, 0)


def clip(width, height):
    """uint8 (9, height, width, 3)."""
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in moving_photo()])


def digests(folder, name, frames, count, prepare=lambda i: None):
    found = set()
    for i in range(count):
        prepare(i)
        path = write_video(plan_output(folder / name, overwrite=True), frames, 7, {"seed": "7"})
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found.add(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())
    return found


# With the default options of the encoder, most of these sizes give several files.
@pytest.mark.parametrize("size", [(16, 48), (16, 112), (18, 34), (50, 66), (144, 144), (192, 144), (64, 64), (320, 240)])
def test_mp4_does_not_depend_on_the_contents_of_new_memory(tmp_path, size):
    fill = (0, 1, 85, 170, 254, 255)
    with new_memory_filled() as select:
        assert len(digests(tmp_path, "a.mp4", clip(*size), len(fill), lambda i: select(fill[i]))) == 1


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "frames"])
def test_other_formats_do_not_depend_on_the_contents_of_new_memory(tmp_path, name):
    fill = (0, 85, 255)
    with new_memory_filled() as select:
        assert len(digests(tmp_path, name, clip(50, 66), len(fill), lambda i: select(fill[i]))) == 1


def test_a_small_mp4_many_times(tmp_path):
    assert len(digests(tmp_path, "a.mp4", clip(64, 64), 30)) == 1


@pytest.mark.heavy
@pytest.mark.parametrize("size", [(64, 64), (64, 112), (112, 64)])
def test_small_mp4s_300_times(tmp_path, size):
    assert len(digests(tmp_path, "a.mp4", clip(*size), 300)) == 1
