"""`--frames-in`: the frames of a folder become one denser sequence or one video. A stand-in makes the frames."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from sample.batches import making
from sample.interpolate import main
from svdjax.media import video

pytestmark = pytest.mark.usefixtures("made")
TINY = ("--size", "32x16", "--num-frames", "3", "--steps", "1", "--recurrence", "0")


@pytest.fixture
def numbered(folder):
    (folder / "in").mkdir()
    for k in range(4):
        shutil.copy(folder / f"{k + 1}.png", folder / "in" / f"shot_{8 + k}.png")  # 8, 9, 10, 11: not in the order of names
    return folder / "in"


def levels(folder):
    frames = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    return [int(frame[0, 0, 0]) for frame in frames]


def test_frames_become_one_sequence(folder, numbered, made, capsys):
    """Shared keyframes appear once; an interrupted run goes on; the same command again does nothing."""
    words = ["--frames-in", str(numbered), "-o", str(folder / "new"), *TINY]
    shutil.copy(folder / "1.png", numbered / "cover.png")
    made_before = making.write

    def fails(request, *args):
        if len(made) == 3:
            raise OSError(28, "No space left on device")
        made_before(request, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "write", fails)
        assert main(words) == 2
    assert "cover.png has no number and is left out" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "new-clips").iterdir()) == ["shot_8", "shot_9"]
    assert main(words) == 0
    assert [request.metadata["keyframes"] for request in made] == [
        *("shot_8.png shot_9.png", "shot_9.png shot_10.png", "shot_10.png shot_11.png"),
        "shot_10.png shot_11.png",
    ]
    assert levels(folder / "new") == [10, 11, 12, 21, 22, 41, 42]
    assert video.read_metadata(folder / "new")["keyframes"] == "shot_8.png to shot_11.png, 4 frames"
    assert not (folder / "new-clips").exists()
    assert main(words) == 0
    assert len(made) == 4
    assert main([*words, "--seed", "1"]) == 2
    assert f"{folder}/new: exists already, made with seed 0 instead of 1" in capsys.readouterr().err
    Image.new("RGB", (64, 32), (0, 9, 0)).save(numbered / "shot_10.png")
    assert main(words) == 2
    assert "made from other frames" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert len(made) == 7


def test_changed_noise_is_noticed(folder, numbered, made, noise, capsys):
    """A file of noise with other values under the same name."""
    words = ["--frames-in", str(numbered), "-o", str(folder / "new.gif"), *TINY, "--noise", str(folder / "n.npz")]
    for level, status in ((1, 0), (1, 0), (2, 2)):
        noise(level)
        assert main(words) == status
    assert len(made) == 3
    assert f"{folder}/new.gif: exists already, made with noise_sha256 " in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp"])
def test_frames_become_one_video(folder, numbered, made, ending):
    import imageio.v3 as iio

    out = folder / f"new{ending}"
    assert main(["--frames-in", str(numbered), "-o", str(out), "--loop", "--playback-fps", "20", *TINY]) == 0
    frames = [frame[8:, 8:].mean() for frame in iio.imiter(out)]
    assert len(frames) == 8  # four clips of three frames; the last leads back to the first frame, which isn't shown again
    assert made[3].metadata["keyframes"] == "shot_11.png shot_8.png"
    assert video.read_metadata(out)["playback_fps"] == "20"
    assert main(["--frames-in", str(numbered), "-o", str(out), "--loop", "--playback-fps", "20", *TINY]) == 0
    assert len(made) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "0 numbered images, expected at least two, such as 0001.png and 0002.png"),
        (("0001.png", "cover.png"), "1 numbered images"),
        (("1.png", "01.png", "2.png"), "01.png and 1.png have the same number, expected one sequence"),
        (("a1.png", "b2.png"), "a1.png and b2.png begin differently, expected one sequence"),
    ],
)
def test_refused_folders(folder, made, capsys, files, message):
    (folder / "in").mkdir()
    for name in files:
        shutil.copy(folder / "1.png", folder / "in" / name)
    assert main(["--frames-in", str(folder / "in"), *TINY]) == 2
    assert f"--frames-in {folder}/in: {message}" in capsys.readouterr().err
    assert main(["--frames-in", str(folder / "1.png"), *TINY]) == 2


def test_gaps_are_said(folder, numbered, capsys):
    (numbered / "shot_10.png").unlink()
    assert main(["--frames-in", str(numbered), "-o", str(folder / "new"), *TINY]) == 0
    assert "the numbers have 1 gaps, such as after shot_9.png: shot_11.png is its neighbour" in capsys.readouterr().out
