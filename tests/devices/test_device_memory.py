"""The error if the device runs out of memory."""

import jax
import pytest

from svdjax.devices.device_memory import out_of_memory_in_one_line
from svdjax.errors import InputError


def test_out_of_memory():
    with pytest.raises(InputError) as e, out_of_memory_in_one_line("try --decode-chunk"):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 8 bytes")
    assert str(e.value) == "the device ran out of memory: try --decode-chunk"


def test_other_errors_are_not_hidden():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), out_of_memory_in_one_line(""):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
