"""The latent cache: equal to encoding each clip, built once, resumable, entries complete or absent."""

import itertools
import resource
import signal
import time

import numpy as np
import pytest
import videos
from tqdm import tqdm

from svdjax.data.clip_order import Order
from svdjax.data.scan import scan
from svdjax.data.sources import Clip, DataSettings
from svdjax.errors import InputError
from train.batches.latent_cache import ARRAYS, LatentCache
from train.batches.loader import CachedLoader, Loader

SIZE = videos.SIZE
CHUNK = 4


class Encoder:
    """Replaces VAE and CLIP: its outputs identify the frame, and it counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, frames):
        assert frames.dtype == np.uint8
        assert frames.shape == (CHUNK, SIZE[1], SIZE[0], 3)
        self.calls += 1
        x = frames.astype(np.float32) / 255
        mean = x[:, ::8, ::8]
        return mean, -mean, x.mean((1, 2))[:, None]


def settings(folder, **changes):
    return DataSettings(**{"folder": folder, "num_frames": 4, "size": SIZE, "stride": 2, **changes})


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    videos.write_video(folder / "a.mp4", videos.coded_frames(11))
    videos.write_frames(folder / "b", videos.coded_frames(9))
    videos.write_frames(folder / "c", videos.coded_frames(8))
    return folder


@pytest.fixture
def sources(data):
    return scan(settings(data)).usable


def build(cache, sources, **changes):
    encode = Encoder()
    return cache.build(sources, encode, **{"chunk": CHUNK, **changes}), encode.calls


def test_batches_equal_those_encoded_from_clips(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    # 11, 9 and 8 frames in chunks of 4 are 3, 3 and 2 calls; one more determines the shapes
    assert build(cache, sources) == (3, 9)
    order = Order(sources, settings(data), 3)
    rows = [0, 2]
    with Loader(order, 3, rows, 4, workers=0) as plain, CachedLoader(cache, order, 3, rows, 4) as cached:
        for ours, expected in itertools.islice(zip(cached, plain, strict=True), 8):
            assert (ours.step, ours.names) == (expected.step, expected.names)
            clips = expected.arrays["clips"]
            encoded = [Encoder()(clip) for clip in clips]
            arrays = dict(ours.arrays)
            assert sorted(arrays) == ["image_embeds", "keyframes", "logvar", "mean"]
            np.testing.assert_array_equal(arrays["keyframes"], clips[:, [0, -1]])
            np.testing.assert_array_equal(arrays["mean"], [mean for mean, _, _ in encoded])
            np.testing.assert_array_equal(arrays["logvar"], [logvar for _, logvar, _ in encoded])
            np.testing.assert_array_equal(arrays["image_embeds"], [embeds[[0, -1]] for _, _, embeds in encoded])
            assert arrays["keyframes"].dtype == np.uint8
            assert arrays["image_embeds"].shape == (2, 2, 1, 3)
            assert all(arrays[name].dtype == np.float32 for name in ("mean", "logvar", "image_embeds"))


def test_built_once(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    build(cache, sources)
    assert build(cache, sources) == (0, 0)
    assert build(LatentCache(tmp_path / "cache", settings(data, num_frames=2, stride=1), "key"), sources) == (0, 0)


def test_every_relevant_change_gives_another_entry(data, sources, tmp_path):
    base = LatentCache(tmp_path / "cache", settings(data), "key").entry(sources[0])
    others = [
        LatentCache(tmp_path / "cache", settings(data, size=(24, 32)), "key").entry(sources[0]),
        LatentCache(tmp_path / "cache", settings(data, fit="pad"), "key").entry(sources[0]),
        LatentCache(tmp_path / "cache", settings(data), "other").entry(sources[0]),
        LatentCache(tmp_path / "cache", settings(data), "key").entry(sources[1]),
    ]
    videos.write_video(data / "a.mp4", 255 - videos.coded_frames(11))
    others.append(LatentCache(tmp_path / "cache", settings(data), "key").entry(scan(settings(data)).usable[0]))
    assert len({base, *others}) == 6


def test_each_process_builds_its_share(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    assert build(cache, sources, share=(1, 2))[0] == 1
    assert [cache.is_complete(s) for s in sources] == [False, True, False]
    assert build(cache, sources, share=(0, 2))[0] == 2
    assert all(map(cache.is_complete, sources))


@pytest.mark.parametrize("name", ARRAYS)
def test_damaged_entries_are_built_again(data, sources, tmp_path, name):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    build(cache, sources)
    file = cache.entry(sources[1]) / f"{name}.npy"
    whole = file.read_bytes()
    for damage in (lambda: file.write_bytes(whole[:-1]), lambda: file.write_bytes(b""), file.unlink):
        damage()
        assert not cache.is_complete(sources[1])
        with pytest.raises(InputError, match="latent cache entry is missing or damaged"):
            cache.read(Clip(sources[1], 2, 4, 2))
        assert build(cache, sources)[0] == 1
        assert file.read_bytes() == whole


def test_a_missing_entry_is_reported_with_its_step(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    order = Order(sources, settings(data), 0)
    with CachedLoader(cache, order, 1, [0], 6) as batches, pytest.raises(InputError, match=r"^step 6, \S+ frames .*: /.*cache"):
        next(batches)


def test_errors_and_interrupts_leave_nothing_half_written(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")

    def breaks(error, after):
        encode, calls = Encoder(), itertools.count()

        def with_error(frames):
            if next(calls) >= after:
                raise error
            return encode(frames)

        return with_error

    # Calls: the shapes, all of a, the first chunk of b; then the shapes and again the first chunk of b.
    for error, after in ((KeyboardInterrupt(), 5), (ZeroDivisionError(), 2)):
        with pytest.raises(type(error)):
            cache.build(sources, breaks(error, after), chunk=CHUNK)
        assert [cache.is_complete(s) for s in sources] == [True, False, False]
        assert [path.name for path in cache.folder.iterdir()] == [cache.entry(sources[0]).name]
    assert build(cache, sources) == (2, 6)


def test_encodings_that_are_not_finite(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")

    def encode(frames):
        mean, logvar, embeds = Encoder()(frames)
        return mean, np.where(frames.any(), np.inf, 0) + logvar, embeds

    with pytest.raises(InputError, match=r"a.mp4: its encoding \(logvar\) is not finite; the source was not cached"):
        cache.build(sources, encode, chunk=CHUNK)
    assert not list(cache.folder.iterdir())


def test_a_disk_without_enough_space(data, sources, tmp_path, monkeypatch):
    """A frame needs 32x24x3 bytes of pixels, two arrays of 4x3x3 floats and one of 3: 2604; 28 frames need 72912 bytes."""
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 72911}))
    with pytest.raises(InputError, match=r"cache: needs 71.2 KiB of disk space, 71.2 KiB are free"):
        build(cache, sources)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 72912}))
    assert build(cache, sources)[0] == 3


def test_a_disk_that_fills_up_during_the_build(data, sources, tmp_path):
    """Simulated by a limit on the size of files, below the second source's frames (9 * 32 * 24 * 3 bytes)."""
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    build(cache, sources[:1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, before[1]))
    try:
        with pytest.raises(InputError, match=r"cache: the latent cache can't be written: File too large"):
            build(cache, sources)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in cache.folder.iterdir()] == [cache.entry(sources[0]).name]
    assert build(cache, sources)[0] == 2


def test_a_run_that_is_overtaken_goes_on(data, sources, tmp_path):
    """Another run fills the cache while this one encodes the first source."""
    cache, encode = LatentCache(tmp_path / "cache", settings(data), "key"), Encoder()

    def overtaken(frames):
        if encode.calls == 2:
            assert build(LatentCache(cache.folder, settings(data), "key"), sources) == (3, 9)
            assert len(list(cache.folder.glob(".*.partial"))) == 1  # this run's
        return encode(frames)

    assert cache.build(sources, overtaken, chunk=CHUNK) == 1
    assert encode.calls == 4
    assert all(map(cache.is_complete, sources))
    assert {path.name for path in cache.folder.iterdir()} == {cache.entry(source).name for source in sources}
    assert {path.stem for path in cache.folder.glob("*/*")} == set(ARRAYS)


def test_an_entry_that_another_run_has_written_is_kept(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    for _ in range(2):
        cache._write(sources[0], Encoder(), CHUNK, tqdm(disable=True))
        assert [path.name for path in cache.folder.iterdir()] == [cache.entry(sources[0]).name]


def test_a_path_where_no_folder_can_be_created(data, tmp_path):
    (tmp_path / "file").write_text("?")
    with pytest.raises(InputError, match="file: the latent cache can't be created"):
        LatentCache(tmp_path / "file", settings(data), "key")


KILLED = """
import sys, time, test_latent_cache as t
from pathlib import Path
folder, cache = map(Path, sys.argv[1:])
encode, calls = t.Encoder(), []
def slow(frames):
    calls.append(1)
    if len(calls) > 5:
        print("now", flush=True)
        time.sleep(60)
    return encode(frames)
sources = t.scan(t.settings(folder)).usable
t.LatentCache(cache, t.settings(folder), "key").build(sources, slow, chunk=t.CHUNK)
"""


def test_a_killed_build_continues(data, sources, tmp_path):
    cache = LatentCache(tmp_path / "cache", settings(data), "key")
    process = videos.run_python(KILLED, data, cache.folder)
    assert videos.output_of(process).readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.1)
    assert len(list(cache.folder.iterdir())) == 2  # one complete, one partial
    assert [cache.is_complete(s) for s in sources] == [True, False, False]
    assert build(cache, sources) == (2, 6)
    assert len(list(cache.folder.iterdir())) == 3
