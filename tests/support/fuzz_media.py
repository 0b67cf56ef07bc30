"""Fuzzing subjects: keyframes, videos for training, files of noise."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
from fuzz_damage import damaged_bytes, damaged_json
from fuzzing import Subject, answer
from PIL import Image, ImageCms

from svdjax.data import scan_records
from svdjax.data.discover import Candidate, find_sources
from svdjax.data.motion import Skipped, measure_source
from svdjax.data.readers import read_clip
from svdjax.data.sources import Source
from svdjax.media.images import load_image
from svdjax.media.video import read_metadata
from svdjax.sampling.draws import Draws, load_draws

SIZE = 32


def subjects(folder: Path) -> dict[str, Subject]:
    """The subjects; damaged files are written into folders of their own in `folder`."""
    for name in ("images", "videos", "records", "noise"):
        (folder / name).mkdir()
    return {
        "images": Subject(damaged_bytes(images()), functools.partial(read_image, folder / "images"), 120),
        "videos": Subject(damaged_bytes(videos()), functools.partial(read_video, folder / "videos"), 80),
        "scan records": Subject(
            damaged_json({"source": SOURCE, "skipped": SKIPPED}), functools.partial(read_records, folder / "records"), 40
        ),
        "noise": Subject(damaged_bytes({"noise.npz": noise()}), functools.partial(read_noise, folder / "noise"), 40),
    }


@functools.cache
def images() -> dict[str, bytes]:
    """Small pictures of every format, some with an orientation, a profile, or transparency, by file name."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE + 4, 3), np.uint8))
    rgba, grey = rgb.convert("RGBA"), rgb.convert("L")
    rgba.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(rng.integers(0, 65536, (8, 9), np.uint16))
    cases: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (rgb, {"exif": exif, "icc_profile": profile}),
        "rgba.png": (rgba, {}),
        "palette.png": (rgb.quantize(16), {"transparency": 3}),
        "deep.png": (deep, {}),
        "animated.png": (rgb, {"save_all": True, "append_images": [rgb.rotate(90, expand=False)]}),
        "rgb.jpg": (rgb, {"exif": exif, "icc_profile": profile}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "rgba.webp": (rgba, {"lossless": True, "exif": exif, "icc_profile": profile}),
        "lossy.webp": (rgb, {}),
        "palette.gif": (rgb, {"save_all": True, "append_images": [grey.convert("RGB")]}),
        "lzw.tif": (rgba, {"compression": "tiff_lzw"}),
        "deep.tif": (deep, {}),
        "rgb.bmp": (rgb, {}),
        "grey.avif": (rgb, {}),
    }
    made = {}
    for name, (image, options) in cases.items():
        file = io.BytesIO()
        try:
            image.save(file, Path(name).suffix[1:].replace("jpg", "jpeg").replace("tif", "tiff"), **options)
        except (KeyError, OSError):  # a format that this build of Pillow lacks
            continue
        made[name] = file.getvalue()
    return made


def read_image(folder: Path, damaged: tuple[str, bytes]) -> None:
    name, data = damaged
    path = folder / name
    path.write_bytes(data)
    found = answer(load_image, path, folder=folder)
    if found is not None:
        pixels, notes = found
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size
        assert all("\n" not in note for note in notes)
    path.unlink()


@functools.cache
def videos() -> dict[str, bytes]:
    """Short videos and animations of several containers and codecs, by file name."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    frames = np.stack([np.stack([(x * 8 + 16 * i) % 256, y * 8, (x + y) * 4], -1) for i in range(6)]).astype(np.uint8)
    made = {}
    codecs = {
        "h264.mp4": ("libx264", "yuv420p"),
        "mpeg4.avi": ("mpeg4", "yuv420p"),
        "mjpeg.mov": ("mjpeg", "yuvj420p"),
        "ffv1.mkv": ("ffv1", "bgr0"),
        "vp9.webm": ("libvpx-vp9", "yuv420p"),
    }
    for name, (codec, pixel_format) in codecs.items():
        file = io.BytesIO()
        file.name = name
        with av.open(file, "w") as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream(codec, rate=8)
            stream.width = stream.height = SIZE
            stream.pix_fmt = pixel_format
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        made[name] = file.getvalue()
    for name in ("animation.gif", "animation.webp"):
        made[name] = iio.imwrite("<bytes>", frames, extension=Path(name).suffix, plugin="pillow", loop=0)
    images_ = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    images_[0].save(file, "PNG", save_all=True, append_images=images_[1:])
    return made | {"animation.png": file.getvalue()}


def read_video(folder: Path, damaged: tuple[str, bytes]) -> None:
    name, data = damaged
    path = folder / name
    path.write_bytes(data)
    found = answer(_measured, folder, folder=folder)
    if isinstance(found, Source):
        for start, _ in found.starts:
            clip = answer(read_clip, found, start, 3, 1, (16, 16), folder=folder)
            assert clip is None or (clip.dtype == np.uint8 and clip.shape == (3, 16, 16, 3))
    else:
        assert found is None or (isinstance(found, Skipped) and found.detail and "\n" not in found.detail)
    answer(read_metadata, path, folder=folder)
    path.unlink()


def _measured(folder: Path) -> Source | Skipped | None:
    candidates, _ = find_sources(folder)
    return measure_source(candidates[0], 3, 1, 0.0) if candidates else None


CANDIDATE = Candidate("a.mp4", "/data/a.mp4", "video")
_MEASURED = {"name": "a.mp4", "kind": "video", "frames": 9, "width": 32, "height": 16, "motion": 1.5}
SOURCE = {**_MEASURED, "starts": [[0, 3], [4, 6]], "size_in_bytes": 99, "digest": "ab", "spacing": 1}
SKIPPED = {**_MEASURED, "reason": "too short", "detail": "9 frames"}


def read_records(folder: Path, damaged: tuple[str, bytes]) -> None:
    """A damaged record is none, or one that training can use."""
    path = folder / "scan.json"
    path.write_bytes(b'{"records": {"key": ' + damaged[1] + b"}}")
    found = answer(scan_records.read, path, folder=folder).get("key", CANDIDATE)
    if isinstance(found, Source):
        assert found.clips > 0
        assert all(found.start(number) < found.frames for number in range(min(found.clips, 9)))
        assert found.width * found.height * found.size_in_bytes > 0
        assert found.digest.encode(errors="surrogatepass")
    elif found is not None:
        assert f"{found.motion:.2f} {found.frames:,} {found.width:,}"
    path.unlink()


@functools.cache
def noise() -> bytes:
    file = io.BytesIO()
    arrays = {"augmentation": np.zeros((8, 8, 3)), "initial": np.zeros((2, 1, 1, 4)), "recurrence": np.zeros((1, 2, 1, 1, 4))}
    np.savez_compressed(file, allow_pickle=False, **{name: np.float32(value) for name, value in arrays.items()})
    return file.getvalue()


def read_noise(folder: Path, damaged: tuple[str, bytes]) -> None:
    name, data = damaged
    (folder / name).write_bytes(data)
    found = answer(load_draws, folder / name, (8, 8, 3), (2, 1, 1, 4), 1, folder=folder)
    assert found is None or (isinstance(found, Draws) and found.recurrence.shape == (1, 1, 2, 1, 1, 4))
    (folder / name).unlink()
