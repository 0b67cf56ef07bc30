"""Numbers of bytes as text."""

import pytest

from svdjax.runtime.sizes import bytes_as_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (65_536, "64.0 KiB"),
        (1023 * 1024 + 1000, "1.00 MiB"),
        (12.34 * 2**20, "12.3 MiB"),
        (3.14159 * 2**30, "3.14 GiB"),
        (149.4 * 2**30, "149 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_text(count, text):
    assert bytes_as_text(count) == text
