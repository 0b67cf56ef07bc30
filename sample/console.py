"""Console output of the sampling commands: progress bar, one-line errors, durations."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import jax
from tqdm import tqdm

from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.errors import InputError, one_line
from svdjax.parallel import cluster
from svdjax.sampling.sampler import Progress


@contextlib.contextmanager
def progress_bar(label: str, evaluations: int) -> Iterator[Progress]:
    """Progress bar over UNet evaluations on standard error of process 0, with the remaining time."""
    with tqdm(total=evaluations, desc=label, unit="eval", file=sys.stderr, disable=not cluster.is_main()) as bar:
        yield lambda done, total: bar.update(done - bar.n)


@contextlib.contextmanager
def one_line_errors(lost: str) -> Iterator[None]:
    """Report non-finite latents, a device that runs out of memory, or a lost process, in one line.

    Args:
        lost: the start of the advice, such as `nothing was written`.
    """
    with lost_process(lost), out_of_memory(lost), not_finite(lost):
        yield


def out_of_memory(lost: str) -> contextlib.AbstractContextManager[None]:
    """Report a device that runs out of memory in one line; see `one_line_errors`."""
    return out_of_memory_in_one_line(
        f"{lost}; try a smaller --memory, a smaller --size or (sample.evaluate) --batch-size, fewer --num-frames, "
        "--dtype bfloat16, "
        "or --guidance 1 1"
    )


@contextlib.contextmanager
def lost_process(lost: str) -> Iterator[None]:
    """Report in one line that a connected process has ended, which JAX notices in the next exchange; see `one_line_errors`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if not jax.distributed.is_initialized():
            raise
        raise InputError(f"another process has ended, or a device has failed: {lost} ({one_line(e, 160)})") from None


@contextlib.contextmanager
def not_finite(lost: str) -> Iterator[None]:
    """Report non-finite latents in one line; see `one_line_errors`."""
    try:
        yield
    except FloatingPointError as e:
        raise InputError(f"{e}: {lost}; try --dtype float32, or a smaller --guidance") from None


def duration(seconds: float) -> str:
    """A duration as text: 45 s, 12 min, 2 h 34 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
