"""Data that several files of tests read."""

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Commands keep compiled programs in the user's cache folder; tests have one of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pipeline_data():
    """Arrays of the official sampler: draws, sigmas, latents after every step, frames."""
    return np.load(DATA / "pipeline.npz")


@pytest.fixture(scope="session")
def unet_data():
    """Arrays of the official UNet: inputs, outputs, every temporal map."""
    return np.load(DATA / "unet.npz")
