"""What the sampling commands share while a model runs: the dtype, the progress bar, and errors of one line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import jax
from tqdm import tqdm

from svdjax.errors import InputError
from svdjax.sampling.sampler import Progress


def compute_dtype(asked: str | None) -> str:
    """The dtype to compute in: what `--dtype` asks for, or what suits the device."""
    return asked or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


@contextlib.contextmanager
def progress_bar(label: str, evaluations: int) -> Iterator[Progress]:
    """A bar on standard error, with the time left, for the UNet evaluations of one clip."""
    with tqdm(total=evaluations, desc=label, unit="eval", file=sys.stderr) as bar:
        yield lambda done, total: bar.update(done - bar.n)


@contextlib.contextmanager
def one_line_errors(lost: str) -> Iterator[None]:
    """Turn what a run can end with into errors of one line; `lost` says what was not written."""
    try:
        yield
    except FloatingPointError as e:
        raise InputError(f"{e}: {lost}; try --dtype float32, or a smaller --guidance") from None
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(
            f"the device ran out of memory: {lost}; "
            "try a smaller --size or (sample.evaluate) --batch-size, fewer --num-frames, --dtype bfloat16, or --guidance 1 1"
        ) from None
