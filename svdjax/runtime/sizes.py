"""Numbers of bytes as text."""

from __future__ import annotations

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def bytes_as_text(count: float) -> str:
    """A number of bytes as text with three digits or more: 512 bytes, 1.50 KiB, 12.3 MiB, 149 GiB."""
    if count < 1024:
        return f"{count:.0f} byte{'' if count == 1 else 's'}"
    power = 1
    while count / 1024**power >= 999.5 and power < len(_UNITS):
        power += 1
    count, unit = count / 1024**power, _UNITS[power - 1]
    return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f} {unit}"
