"""The small model in one file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `original_files`, which only the tests of this folder use


@pytest.fixture(scope="session")
def single_file(tmp_path_factory) -> Path:
    """The small model in Stability's layout, float32; tests must not change it."""
    import original_files

    return original_files.write(tmp_path_factory.mktemp("original") / "svd_xt.safetensors")
