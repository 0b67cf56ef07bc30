"""Modules that worker processes import must not load JAX, which would cost each of them seconds and hundreds of megabytes."""

import subprocess
import sys
from pathlib import Path

import pytest

import svdjax.data
from svdjax.data.readers import READERS

DATA = sorted(f"svdjax.data.{path.stem}" for path in Path(*svdjax.data.__path__).glob("*.py") if path.stem != "__init__")
READ_BY_WORKERS = ("train.batches.loader", "train.batches.latent_cache", "train.batches.clips_with_facts")


def test_every_reader_is_in_the_data_folder():
    assert set(READERS.values()) < set(DATA)


@pytest.mark.parametrize("modules", [DATA, READ_BY_WORKERS], ids=["svdjax.data", "train.batches"])
def test_no_jax_in_workers(modules):
    code = f"import sys; import {', '.join(modules)}; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
