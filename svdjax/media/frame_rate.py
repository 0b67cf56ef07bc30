"""Playback rates as exact fractions: whole, decimal, or the NTSC rates n * 1000 / 1001."""

from __future__ import annotations

import math
import numbers
import re
from fractions import Fraction
from typing import Any

from svdjax.errors import InputError, one_line
from svdjax.scalars import plain, real_number

_NTSC = (24, 30, 48, 60, 72, 96, 120, 144, 240)  # rates that are also used times 1000/1001, written with two or three decimals
_NTSC_TOLERANCE = Fraction(5, 1000)
_LARGEST_DENOMINATOR = 1_000_000  # mp4 stores the rate as two 32-bit integers


def frame_rate(value: Any, name: str = "fps") -> Fraction:
    """The exact rate of a number or a text.

    Decimal values near n * 1000 / 1001, such as 23.976, 23.98, 29.97 or 59.94, mean that NTSC rate.

    Args:
        value: a number (Python's, NumPy's or JAX's), a `Fraction`, or a text such as `23.976` or `24000/1001`.
        name: for the message.

    Raises:
        InputError: another value, or not above 0.
    """
    found = _parse(value.strip()) if isinstance(value, str) else _of_number(value)
    if found is None or found <= 0:
        given = one_line(repr(plain(value)), 60)
        raise InputError(f"{name} is {given}, expected a number above 0, such as 24, 23.976 or 24000/1001")
    return found


def _parse(text: str) -> Fraction | None:
    if match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII):
        return Fraction(int(match[1]), int(match[2])).limit_denominator(_LARGEST_DENOMINATOR) if int(match[2]) else None
    if not re.fullmatch(r"\d{1,9}(\.\d{0,20})?|\.\d{1,20}", text, re.ASCII):
        return None
    return _nominal(Fraction(text))


def _of_number(value: Any) -> Fraction | None:
    number = plain(value)
    if isinstance(number, numbers.Rational) and not isinstance(number, bool):
        return Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    if real_number(value) is None:
        return None
    # the shortest decimal text in the value's own precision: 12.1 as float32 is 121/10
    return _nominal(Fraction(str(value if hasattr(value, "dtype") else number)))


def _nominal(decimal: Fraction) -> Fraction:
    """The rate that a decimal stands for."""
    above = math.ceil(decimal)
    exact = Fraction(1000 * above, 1001)
    if above in _NTSC and abs(decimal - exact) <= _NTSC_TOLERANCE:
        return exact
    return decimal.limit_denominator(_LARGEST_DENOMINATOR)
