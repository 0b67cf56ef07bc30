"""Flow agreement and flicker of clips with known motion."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sample.quality import motion


def moving(dx, dy, frames=4, side=64):
    """A smooth random texture that moves by (dx, dy) pixels a frame."""
    texture = gaussian_filter(np.random.default_rng(0).uniform(0, 255, (160, 160, 3)), (2, 2, 0), mode="wrap")
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    clips = [np.roll(texture, (i * dy, i * dx), (0, 1))[:side, :side] for i in range(frames)]
    return np.stack(clips).astype(np.uint8)


@pytest.mark.parametrize(
    ("motion_of_frames", "expected"),
    [((3, 0), 1), ((-3, 0), 0), ((0, 0), 0), ((3, 3), 0), ((4, 1), 1), ((0, 3), 0), ((6, 0), 1)],
)
def test_flow_agreement(motion_of_frames, expected):
    pytest.importorskip("cv2")
    assert motion.flow_agreement(moving(3, 0), moving(*motion_of_frames)) == pytest.approx(expected, abs=0.05)


def test_flow_agreement_of_some_pixels():
    """The left half moves the wrong way."""
    pytest.importorskip("cv2")
    truth, wrong = moving(3, 0, side=128), moving(-3, 0, side=128)
    frames = np.concatenate([wrong[:, :, :64], truth[:, :, 64:]], 2)
    assert motion.flow_agreement(truth, frames) == pytest.approx(0.5, abs=0.1)
    assert motion.flow_agreement(truth, truth) == 1


def test_no_motion_no_agreement():
    pytest.importorskip("cv2")
    assert np.isnan(motion.flow_agreement(moving(0, 0), moving(3, 0)))
    little = moving(0, 0, side=160)
    little[:, :8, :8] = moving(3, 0, side=8)
    assert np.isnan(motion.flow_agreement(little, little))
    little[:, :32, :32] = moving(3, 0, side=32)
    assert motion.flow_agreement(little, little) == 1


def test_flicker():
    truth = moving(2, 1)
    assert motion.flicker(truth, truth) == 0
    darker = (truth // 2 + 20).astype(np.uint8)
    assert motion.flicker(darker, darker + 30) == 0  # a constant error
    flickering = darker.copy()
    flickering[::2] += 10
    assert motion.flicker(darker, flickering) == pytest.approx(10)
    flickering[1::2] -= 10
    assert motion.flicker(darker, flickering) == pytest.approx(20)
