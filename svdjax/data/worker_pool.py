"""Worker processes that read data in parallel with the training process and never outlive it.

Not started by `multiprocessing`, because its workers import the main module again: `python -m train.backward` would load JAX
into each worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from svdjax.errors import InputError, one_line

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from svdjax.data.worker_pool import serve; serve(int(sys.argv[2]))"
)

# Signals that terminals and schedulers send to every process of a job. Only the parent reacts to them. A worker ends when its
# pipe to the parent closes, which happens however the parent ends.
_SIGNALS_OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class WorkerDied(RuntimeError):
    """A worker process ended during a task: killed, out of memory, or crashed in a decoder."""


class Workers:
    """A pool of processes that run functions of importable modules. A context manager; leaving it kills them.

    Each process is controlled by a thread of this process, which sends a task and waits for the answer. Results therefore
    arrive in memory while the main thread continues.

    Args:
        count: number of processes; 0 runs every function in this process, inside `submit`.
    """

    def __init__(self, count: int):
        self._threads = ThreadPoolExecutor(count, "data") if count else None
        self._own = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run `function(*args)` in the next free worker.

        Returns:
            The future result. It raises an `InputError` unchanged, also if no worker can be started; any other exception as a
            `RuntimeError` of one line, with the worker's traceback as a note; and `WorkerDied` if the worker ended (the next
            task gets a new worker).
        """
        if self._threads is not None:
            return self._threads.submit(self._call, function, args)
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as e:
            future.set_exception(e)
        return future

    def close(self) -> None:
        """Kill the workers, even during a task; this is safe, because they only read."""
        if self._threads is None:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.kill()
        self._threads.shutdown()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        worker = getattr(self._own, "worker", None) or self._start()
        try:
            _send(worker.pipe, (function, args))
            answer, buffers = _receive(worker.pipe)
        except (EOFError, OSError):
            self._own.worker = None
            with self._lock:
                self._workers.discard(worker)
            raise WorkerDied(_cause(worker.end())) from None
        succeeded, value = pickle.loads(answer, buffers=buffers)
        if succeeded:
            return value
        raise value

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise WorkerDied("the pool was closed")
            try:
                self._own.worker = worker = _Worker()
            except OSError as e:  # too many processes, too little memory
                reason = e.strerror or e
                raise InputError(f"a process that reads data can't be started ({reason}); --workers 0 needs none") from None
            self._workers.add(worker)
        return worker


class _Worker:
    """One process and the pipe to it."""

    def __init__(self) -> None:
        self.pipe, theirs = socket.socketpair()
        path = [os.path.abspath(entry) for entry in sys.path]
        with theirs, _blocked(_SIGNALS_OF_THE_PARENT):  # a process inherits the blocked signals of its parent
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def end(self) -> int:
        """Close the pipe and return the exit status; it is negative if a signal ended the process."""
        self.pipe.close()
        try:
            return self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def _blocked(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the process that read it was killed (out of memory?)"
    end = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"the process that read it ended {end}"


def serve(handle: int) -> None:
    """The main loop of a worker: answer tasks from the pipe until it closes.

    Args:
        handle: file descriptor of the worker's end of the pipe.
    """
    with socket.socket(fileno=handle) as pipe:
        while True:
            try:
                task, buffers = _receive(pipe)
            except (EOFError, OSError):
                return
            try:
                function, args = pickle.loads(task, buffers=buffers)
                answer = (True, function(*args))
            except InputError as e:
                answer = (False, e)
            except Exception as e:
                error = RuntimeError(f"{type(e).__name__}: {one_line(e)}")
                error.add_note(f"in a worker process: {traceback.format_exc()}")
                answer = (False, error)
            try:
                _send(pipe, answer)
            except OSError:
                return


def _send(pipe: socket.socket, value: Any) -> None:
    """Send a pickled value, followed by the contents of its arrays without copying them.

    A clip of 25 MB takes 11 ms; `multiprocessing.Connection`, which copies it several times, took 78 ms.
    """
    arrays: list[memoryview] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=lambda buffer: arrays.append(buffer.raw()))
    sizes = [len(data), *(array.nbytes for array in arrays)]
    pipe.sendall(struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
    for part in (data, *arrays):
        pipe.sendall(part)


def _receive(pipe: socket.socket) -> tuple[bytearray, list[bytearray]]:
    """The arguments of `pickle.loads`: the pickled value, and the contents of its arrays."""
    (count,) = struct.unpack("<I", _read(pipe, 4))
    data, *arrays = [_read(pipe, size) for size in struct.unpack(f"<{count}Q", _read(pipe, 8 * count))]
    return data, arrays


def _read(pipe: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        received = pipe.recv_into(rest)
        if not received:
            raise EOFError
        rest = rest[received:]
    return data
