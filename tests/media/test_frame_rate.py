"""Playback rates: numbers and texts as exact fractions, and files read back by FFmpeg and Pillow."""

from __future__ import annotations

from fractions import Fraction

import av
import jax.numpy as jnp
import numpy as np
import pytest
from media import moving_photo, read_clip

from svdjax.errors import InputError
from svdjax.media.frame_rate import frame_rate
from svdjax.media.output_plan import check_fps, plan_output
from svdjax.media.video import write_video

FILM = Fraction(24000, 1001)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (24, 24), (24.0, 24), ("24", 24), ("024.000", 24), (np.int64(24), 24), (np.array(24), 24), (jnp.int32(24), 24),
        (23.976, FILM), ("23.976", FILM), (23.98, FILM), ("24000/1001", FILM), (Fraction(24000, 1001), FILM),
        (np.float32(23.976), FILM), (jnp.float32(23.976), FILM), (24000 / 1001, FILM),
        (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001)), (119.88, Fraction(120000, 1001)),
        (12.5, Fraction(25, 2)), ("1/3", Fraction(1, 3)), (".5", Fraction(1, 2)), (np.float32(12.1), Fraction(121, 10)),
        (23.9, Fraction(239, 10)), (14.99, Fraction(1499, 100)), (25 / 3, Fraction(25, 3)),
    ],
)  # fmt: skip
def test_numbers_and_texts(given, expected):
    assert frame_rate(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        True, np.bool_(True), None, 0, -1, 1e-300, float("nan"), float("inf"), 1j, [24], np.array([24]), "", "x", "0", "1/0",
        "24/1001/2", "-3", "1e3", "24,5", "²",
    ],
)  # fmt: skip
def test_what_is_no_rate(given):
    with pytest.raises(InputError, match=r"^rate is .*, expected a number above 0, such as 24, 23\.976 or 24000/1001$"):
        frame_rate(given, "rate")


def test_each_format_has_its_limits():
    assert check_fps(0.01) == Fraction(1, 100)
    assert check_fps(50, ".gif") == 50
    for given, output_format, suffix in (
        (0.009, ".mp4", "1000 for a .mp4"),
        (50.1, ".gif", "50 for a .gif"),
        (1001, "folder", "1000"),
    ):
        with pytest.raises(InputError, match=rf"^--x is {given}, expected a number from 0\.01 to {suffix}$"):
            check_fps(given, output_format, "--x")
    with pytest.raises(InputError, match=r"^fps is 10{39}, expected a number from"):
        check_fps(10**99)


@pytest.mark.parametrize("rate", [FILM, Fraction(30000, 1001), Fraction(25, 2), Fraction(1, 3), Fraction(23123457, 1000000)])
def test_mp4_stores_the_rate_exactly(tmp_path, rate):
    path = write_video(plan_output(tmp_path / "a.mp4"), moving_photo(), str(rate))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames) == (rate, 9)
        assert stream.duration * stream.time_base == 9 / rate
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert times == [i / rate for i in range(9)]


@pytest.mark.parametrize(("name", "unit"), [("a.gif", Fraction(1, 100)), ("a.webp", Fraction(1, 1000))])
@pytest.mark.parametrize("rate", [FILM, Fraction(30000, 1001), Fraction(25, 2), Fraction(1, 3), Fraction(1, 100)])
def test_durations_add_up(tmp_path, name, unit, rate):
    frames, durations = read_clip(write_video(plan_output(tmp_path / name), moving_photo(), rate))
    assert len(frames) == 9
    assert abs(sum(map(Fraction, durations)) - 9 / rate) <= unit / 2 + Fraction(1, 10**9)
    np.testing.assert_allclose(durations, float(1 / rate), atol=float(unit) + 1e-9)
