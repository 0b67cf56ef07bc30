"""Windows of a clip at a higher frame rate: overlapping parts that start and end at original frames."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.errors import InputError
from svdjax.sampling.runs import window_length
from svdjax.scalars import whole_number

RATES = (1, 2, 4)


def check_rate(rate: object, num_frames: int, name: str = "rate") -> int:
    """The factor as a Python int.

    Args:
        rate: factor by which the frame rate is raised.
        num_frames: frames of a clip before.
        name: the option, for messages.

    Raises:
        InputError: a factor that isn't in `RATES`, or clips too short for a window.
    """
    whole = whole_number(rate)
    if whole not in RATES:
        raise InputError(f"{name} is {rate!r}, expected one of {', '.join(map(str, RATES))}")
    if num_frames <= whole > 1:
        raise InputError(f"{name} is {whole}, but a clip has {num_frames} frames, expected at least {whole + 1} of them")
    return whole


def frames_at_rate(num_frames: int, rate: int) -> int:
    """Frames of a clip after `rate - 1` new frames are put between each two neighbours."""
    return (num_frames - 1) * rate + 1


@dataclass(frozen=True)
class Windows:
    """Windows of one length.

    Attributes:
        starts: first frame of each, at the higher rate; a multiple of `rate`.
        length: frames of a window, the largest at most `num_frames` that ends at an original frame.
        rate: factor of the frame rate.
    """

    starts: tuple[int, ...]
    length: int
    rate: int

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """The original frames at which each window starts and ends, as indices of the clip before."""
        last = self.length - 1
        return tuple((start // self.rate, (start + last) // self.rate) for start in self.starts)


def windows_of(num_frames: int, rate: int) -> Windows:
    """Windows that cover a clip, each half over the next, as far as the length allows.

    Args:
        num_frames: frames of the clip before.
        rate: factor of the frame rate.
    """
    gaps = (num_frames - 1) // rate  # of original frames in a window
    stride = max(gaps - gaps // 2, 1)
    last = num_frames - 1 - gaps
    starts = [*range(0, last, stride), last]
    return Windows(tuple(start * rate for start in starts), window_length(num_frames, rate), rate)
