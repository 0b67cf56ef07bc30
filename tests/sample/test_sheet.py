"""Contact sheets and cross-fades."""

import numpy as np

from sample import contact_sheet


def test_cross_fade():
    first, last = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 200, np.uint8)
    found = contact_sheet.cross_fade(first, last, 5)
    assert found.shape == (5, 4, 6, 3)
    assert found[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]


def test_large_frames_are_reduced():
    frames = np.full((25, 576, 1024, 3), 77, np.uint8)
    found = contact_sheet.draw([("svdjax", frames)])
    assert found.height < 210
    assert found.width < 25 * 350


def test_frames_lie_in_rows(tmp_path):
    """Enlarged by a whole number, so that every pixel is as it was."""
    rng = np.random.default_rng(0)
    rows = [
        ("a", rng.integers(0, 256, (3, 32, 48, 3), np.uint8)),
        ("a longer name", rng.integers(0, 256, (2, 32, 48, 3), np.uint8)),
    ]
    contact_sheet.save(contact_sheet.draw(rows, ["0", "1"]), tmp_path / "sheet.png")
    found = np.asarray(contact_sheet.Image.open(tmp_path / "sheet.png"))
    left, top = found.shape[1] - 3 * (144 + contact_sheet.GAP), found.shape[0] - 2 * (96 + contact_sheet.GAP)
    for row, (_, frames) in enumerate(rows):
        for column, frame in enumerate(frames):
            y, x = top + row * (96 + contact_sheet.GAP), left + column * (144 + contact_sheet.GAP)
            np.testing.assert_array_equal(found[y : y + 96 : 3, x : x + 144 : 3], frame)
            np.testing.assert_array_equal(found[y + 2 : y + 96 : 3, x + 2 : x + 144 : 3], frame)
    assert (found[:top, left:] < 100).any()  # heads
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
