"""Contact sheets and cross-fades."""

import numpy as np

from sample import contact_sheet


def test_cross_fade():
    first, last = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 200, np.uint8)
    faded = contact_sheet.cross_fade(first, last, 5)
    assert faded.shape == (5, 4, 6, 3)
    assert faded[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]


def test_large_frames_are_reduced():
    frames = np.full((25, 576, 1024, 3), 77, np.uint8)
    sheet = contact_sheet.render([("svdjax", frames)])
    assert sheet.height < 210
    assert sheet.width < 25 * 350


def test_frames_lie_in_rows(tmp_path):
    """Small frames are enlarged by a whole number, so every pixel keeps its colour."""
    rng = np.random.default_rng(0)
    strips = [
        ("a", rng.integers(0, 256, (3, 32, 48, 3), np.uint8)),
        ("a longer name", rng.integers(0, 256, (2, 32, 48, 3), np.uint8)),
    ]
    contact_sheet.save(contact_sheet.render(strips, ["0", "1"]), tmp_path / "sheet.png")
    pixels = np.asarray(contact_sheet.Image.open(tmp_path / "sheet.png"))
    left, top = pixels.shape[1] - 3 * (144 + contact_sheet.GAP), pixels.shape[0] - 2 * (96 + contact_sheet.GAP)
    for row, (_, frames) in enumerate(strips):
        for column, frame in enumerate(frames):
            y, x = top + row * (96 + contact_sheet.GAP), left + column * (144 + contact_sheet.GAP)
            np.testing.assert_array_equal(pixels[y : y + 96 : 3, x : x + 144 : 3], frame)
            np.testing.assert_array_equal(pixels[y + 2 : y + 96 : 3, x + 2 : x + 144 : 3], frame)
    assert (pixels[:top, left:] < 100).any()  # heads
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
