"""Batches: the right clips in order, a bounded number read ahead, by processes that never outlive their parent."""

import os
import signal
import time

import numpy as np
import pytest
import videos
import worker_tasks

from svdjax.data.clip_order import Order
from svdjax.data.readers import read_clip
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings
from svdjax.data.worker_pool import WorkerDied, Workers
from svdjax.errors import InputError
from train.batches.loader import Loader

SIZE = videos.SIZE
GONE = 10  # seconds within which a worker must end after its parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i in range(3):
        videos.write_video(folder / f"{i}.mp4", videos.coded_frames(20 + i))
    videos.write_frames(folder / "3", videos.coded_frames(9))
    return folder


def make_order(folder, **changes):
    settings = DataSettings(folder=folder, num_frames=4, size=SIZE, stride=2, **changes)
    return Order(scan(settings).usable, settings, 7)


def own(folder):
    """One video that a test may damage."""
    return videos.write_video(folder / "a.mp4", videos.coded_frames(20))


def wait_until_gone(pids, seconds=GONE):
    end = time.monotonic() + seconds
    while any(map(videos.is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return [pid for pid in pids if videos.is_running(pid)]


# Batches


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_clips_of_the_order(folder, workers):
    order = make_order(folder)
    with Loader(order, 4, [1, 3], first_step=5, workers=workers) as batches:
        for step in range(5, 12):
            batch = next(batches)
            clips = [order.clip((step - 1) * 4 + row) for row in (1, 3)]
            assert batch.step == step
            assert batch.names == [clip.name for clip in clips]
            assert list(batch.arrays) == ["clips"]
            assert batch.arrays["clips"].dtype == np.uint8
            assert [videos.numbers(c) for c in batch.arrays["clips"]] == [list(clip.frames) for clip in clips]
            expected = [read_clip(c.source, c.start, 4, 2, SIZE) for c in clips]
            np.testing.assert_array_equal(batch.arrays["clips"], expected)


def test_size_and_fit_are_those_of_the_settings(folder):
    settings = DataSettings(folder=folder, num_frames=4, size=(40, 40), fit="pad")
    order = Order(scan(settings).usable, settings, 0)
    with Loader(order, 1, [0], workers=0) as batches:
        clip = next(batches).arrays["clips"][0]
    assert clip.shape == (4, 40, 40, 3)
    assert clip[:, :5].max() == clip[:, -5:].max() == 0  # 32x24 becomes 40x30


def test_reading_stays_a_fixed_number_of_batches_ahead(folder, monkeypatch):
    asked, order = [], make_order(folder)
    submit = Workers.submit
    monkeypatch.setattr(Workers, "submit", lambda self, *args: asked.append(1) or submit(self, *args))
    with Loader(order, 2, [0, 1], workers=1, ahead=3) as batches:
        assert len(asked) == 6  # before the first batch is requested
        next(batches)
        assert len(asked) == 8
        time.sleep(0.3)
        assert len(asked) == 8
        next(batches)
        assert len(asked) == 10
    asked.clear()
    with Loader(order, 2, [0, 1], workers=0, ahead=3) as batches:
        assert not asked
        next(batches)
        assert len(asked) == 2


def test_rows_outside_the_batch(folder):
    for rows in ([], [4], [-1]):
        with pytest.raises(ValueError, match=r"expected some of 0\.\.3"):
            Loader(make_order(folder), 4, rows)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_goes_bad_is_named_with_its_step(tmp_path, workers):
    video = own(tmp_path)
    order = make_order(tmp_path)
    video.write_bytes(video.read_bytes()[:-200])
    with (
        Loader(order, 1, [0], first_step=3, workers=workers) as batches,
        pytest.raises(InputError, match=rf"^step 3, a.mp4 frames \d+-\d+ by 2: {video}: the video is cut short: \d+ bytes"),
    ):
        next(batches)


# Processes


def test_workers_run_in_parallel_and_keep_order():
    with Workers(2) as pool:
        start = time.monotonic()
        futures = [pool.submit(worker_tasks.number_and_process, i) for i in range(6)]
        assert [f.result()[0] for f in futures] == list(range(6))
        pids = {f.result()[1] for f in futures}
        assert time.monotonic() - start < 30
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not wait_until_gone(pids, 0)


def test_exceptions_arrive():
    for count in (0, 1):
        with Workers(count) as pool:
            with pytest.raises(InputError, match=r"^user's$"):
                pool.submit(worker_tasks.fail, InputError("user's")).result()
            with pytest.raises((KeyError, RuntimeError), match="ours"):
                pool.submit(worker_tasks.fail, KeyError("ours")).result()
            assert pool.submit(abs, -3).result() == 3  # still alive


def test_a_dead_worker_is_detected_and_replaced():
    with Workers(1) as pool:
        with pytest.raises(WorkerDied, match=r"killed \(out of memory\?\)"):
            pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL).result()
        with pytest.raises(WorkerDied, match="ended with status 3"):
            pool.submit(os._exit, 3).result()
        assert pool.submit(abs, -3).result() == 3


def test_workers_leave_signals_to_the_parent():
    with Workers(1) as pool:
        pid = pool.submit(os.getpid).result()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(pid, number)
        time.sleep(0.2)
        assert pool.submit(os.getpid).result() == pid
    assert not videos.is_running(pid)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {
        signal.SIGINT,
        signal.SIGTERM,
    }  # this process's mask is unchanged


def test_leaving_does_not_wait_for_work():
    start = time.monotonic()
    with Workers(1) as pool:
        pid = pool.submit(os.getpid).result()
        slow = pool.submit(time.sleep, 60)
        waiting = pool.submit(time.sleep, 60)
        time.sleep(0.2)
    assert time.monotonic() - start < 15
    assert not videos.is_running(pid)
    assert isinstance(slow.exception(), WorkerDied)
    assert waiting.cancelled()


def test_an_exception_in_the_loop_leaves_no_process(folder):
    loader = Loader(make_order(folder), 1, [0], workers=2)
    pids = []

    def train():
        with loader as batches:
            next(batches)
            assert isinstance(loader._pool, Workers)
            pids.extend(worker.process.pid for worker in loader._pool._workers)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert pids
    assert not wait_until_gone(pids, 0)


PARENT = """
import signal, sys, time, test_loader as t
from pathlib import Path
mode = sys.argv[2]
with t.Loader(t.make_order(Path(sys.argv[1])), 2, [0, 1], workers=2) as batches:
    for batch in batches:
        print(*(worker.process.pid for worker in batches._pool._workers), flush=True)
        time.sleep(60 if mode == "idle" else 0)
"""


@pytest.mark.parametrize("mode", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(folder, mode, number):
    parent = videos.run_python(PARENT, folder, mode)
    try:
        pids = []
        while len(pids) < 2:
            line = videos.output_of(parent).readline()
            assert line, "the parent ended by itself"
            pids = [int(pid) for pid in line.split()]
            if mode == "idle":
                break
        assert pids
        assert all(map(videos.is_running, pids))
        parent.send_signal(number)
        assert parent.wait(GONE) == -number
        assert not wait_until_gone(pids)
    finally:
        parent.kill()
        parent.communicate()


def test_a_script_without_a_main_guard(folder, tmp_path):
    """`multiprocessing` would run the script again in every worker."""
    script = tmp_path / "script.py"
    script.write_text(f"print('once'); import sys; sys.argv[1:] = [{str(folder)!r}, 'busy']\n" + PARENT + "        break\n")
    process = videos.run_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.count("once") == 1
