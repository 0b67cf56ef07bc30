"""Data that several files of tests read."""

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def pipeline_data():
    """Arrays of the official sampler: draws, sigmas, latents after every step, frames."""
    return np.load(DATA / "pipeline.npz")


@pytest.fixture(scope="session")
def unet_data():
    """Arrays of the official UNet: inputs, outputs, every temporal map."""
    return np.load(DATA / "unet.npz")
