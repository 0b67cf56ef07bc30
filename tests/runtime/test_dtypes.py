"""The default dtype for computation."""

import jax
import pytest

from svdjax.runtime.dtypes import DTYPES, compute_dtype


@pytest.mark.parametrize(("backend", "default"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_default(monkeypatch, backend, default):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compute_dtype() == default
    assert [compute_dtype(dtype) for dtype in DTYPES] == list(DTYPES)
