"""`python -m sample.animate`: the clips of a folder, runs that go on where they stopped, and everything that it refuses."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import goldens
import imageio.v3 as iio
import numpy as np
import pytest
import svd_folders
from media import read_clip
from skimage import data

import svdjax
from sample.animate import main
from svdjax.errors import InputError
from svdjax.media import video
from svdjax.sampling import generation

pytestmark = pytest.mark.usefixtures("quick_shapes")

refused = functools.partial(svd_folders.refused, command=main)
SMALL = ("--steps", "2", "--num-frames", "3", "--size", "32x16")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Two photographs, neither of the video's shape."""
    folder = tmp_path_factory.mktemp("photos")
    iio.imwrite(folder / "cat.png", data.chelsea())
    iio.imwrite(folder / "cup.v2.jpg", data.coffee())
    return sorted(folder.iterdir())


def run(model, out, *arguments) -> int:
    return main([*(str(argument) for argument in arguments), "--model", str(model), "-o", str(out), *SMALL])


def in_python(model: svdjax.SVD, image: np.ndarray, **settings) -> np.ndarray:
    """What the command makes, in the same steps, so that they are compiled once."""
    return svdjax.animate(model, image, steps=2, num_frames=3, progress=lambda *args: None, **settings).astype(int)


def test_a_batch_equals_its_images_and_fusion_changes_nothing(lively_model):
    model = svdjax.load(lively_model)
    images = np.stack([goldens.keyframe(1)[:16, :32], goldens.keyframe(2)[:16, :32]])
    together = in_python(model, images, seed=4)
    assert together.shape == (2, 3, 16, 32, 3)
    for image, frames in zip(images, together, strict=True):
        alone = in_python(model, image, seed=4, fusion="average")
        assert np.abs(frames - alone).max() <= 1  # products of other shapes add in another order
    assert np.abs(together[0] - together[1]).mean() > 5
    assert np.abs(together[0] - in_python(model, images[0], seed=5)).mean() > 5


def test_a_clip_for_every_image_and_seed(lively_model, photos, tmp_path, capsys):
    out = tmp_path / "clips"
    assert run(lively_model, out, *photos, "--clips-per-image", 2, "--seed", 7, "--playback-fps", "5") == 0
    assert sorted(path.name for path in out.iterdir()) == ["cat-0.mp4", "cat-1.mp4", "cup.v2-0.mp4", "cup.v2-1.mp4"]
    loaded = svdjax.load(lively_model)
    image = svdjax.media.fit.fit(data.chelsea(), (32, 16))
    for k in range(2):
        frames, seconds = read_clip(out / f"cat-{k}.mp4")
        assert seconds == pytest.approx([0.2] * 3)
        exact, other = (in_python(loaded, image, seed=seed) for seed in (7 + k, 8 - k))
        # random weights make coloured noise, of which 4:2:0 leaves half
        assert np.abs(frames - exact).mean() < 0.6 * np.abs(frames - other).mean()
    metadata = video.read_metadata(out / "cup.v2-1.mp4")
    assert metadata == {
        "software": "svdjax",
        "image": "cup.v2.jpg",
        "model": "model",
        "fit": "crop",
        "size": "32x16",
        "decode_chunk": "all",
        "num_frames": "3",
        "steps": "2",
        "seed": "8",
        "fps": "7",
        "motion_bucket_id": "127",
        "noise_aug_strength": "0.02",
        "guidance": "1 3",
        "schedule": "edm",
        "deep_every": "1",
        "playback_fps": "5",
    }
    printed = capsys.readouterr()
    assert "cat.png 451x300: scaled and cropped to 32x16, 25% of its height cut" in printed.out
    lines = [line for line in printed.out.splitlines() if line.startswith("wrote ")]
    assert lines[0].startswith(f"wrote {out}/cat-0.mp4 in ")
    assert "; 3 clips left, about " in lines[0]
    assert lines[-1].endswith(" s")
    assert "cup.v2-1.mp4 (4 of 4): 100%" in printed.err


def test_frames_are_lossless(lively_model, tmp_path):
    iio.imwrite(tmp_path / "a.png", goldens.keyframe(1)[:16, :32])
    assert run(lively_model, tmp_path / "out", tmp_path / "a.png", "--format", "frames", "--decode-chunk", 2) == 0
    frames, _ = read_clip(tmp_path / "out" / "a")
    exact = in_python(svdjax.load(lively_model), goldens.keyframe(1)[:16, :32], decode_chunk=2)
    np.testing.assert_array_equal(frames, exact)


@pytest.mark.parametrize("form", ["mp4", "frames"])
def test_a_run_that_stopped_goes_on(model, photos, tmp_path, capsys, monkeypatch, form):
    out = tmp_path / "clips"
    names = {"mp4": ["cat.mp4", "cup.v2.mp4"], "frames": ["cat", "cup.v2"]}[form]
    made = []
    real = generation.sample_image

    def stopping(model, image, settings, **options):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(settings.seed)
        return real(model, image, settings, **options)

    monkeypatch.setattr(generation, "sample_image", stopping)
    assert run(model, out, *photos, "--format", form) == 130
    assert [path.name for path in out.iterdir()] == names[:1]
    first = contents(out / names[0])
    capsys.readouterr()
    monkeypatch.setattr(generation, "sample_image", real)
    assert run(model, out, *photos, "--format", form) == 0
    kept = f"{out / names[0]}{os.sep if form == 'frames' else ''}"
    assert f"{kept}: exists and is kept (--overwrite makes it again)\n" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == names
    assert contents(out / names[0]) == first
    # nothing is left to do: no model is loaded
    monkeypatch.setattr("svdjax.model_sources.Checkpoint.load", None)
    assert run(model, out, *photos, "--format", form, "--seed", 9) == 0
    printed = capsys.readouterr().out
    assert f"{kept}: exists and is kept, although it was made with seed 0 instead of 9 (--overwrite makes it again)" in printed
    assert printed.endswith("nothing to do: every clip exists\n")


def contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def test_overwrite(model, photos, tmp_path, capsys):
    out = tmp_path / "clips"
    out.mkdir()
    (out / "cat.mp4").write_bytes(b"not a video")
    (out / "notes.txt").write_text("other files are no matter")
    assert run(model, out, photos[0]) == 0
    assert (out / "cat.mp4").read_bytes() == b"not a video"
    assert "cat.mp4: exists and is kept (" in capsys.readouterr().out
    assert run(model, out, photos[0], "--overwrite") == 0
    assert len(read_clip(out / "cat.mp4")[0]) == 3
    assert (out / "notes.txt").exists()


def test_latents_that_are_not_finite_stop_the_run_and_keep_what_is_there(model, photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "clips"
    assert run(model, out, photos[0]) == 0
    capsys.readouterr()
    assert run(model, out, *photos, "--guidance", "1e39", "1e39") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: latents are not finite after evaluation 1 of 2: ")
    assert f"{out}/cup.v2.mp4 was not written; try --dtype float32" in line
    assert [path.name for path in out.iterdir()] == ["cat.mp4"]


@pytest.mark.parametrize("kind", ["latents", "file"])
def test_a_clip_that_fails_costs_no_other(model, photos, tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "clips"
    if kind == "latents":
        fail_first(monkeypatch, generation, "sample_image", FloatingPointError("latents are not finite"))
        expected = f"latents are not finite: {out}/cat.mp4 was not written; try --dtype float32, or a smaller --guidance"
    else:
        fail_first(monkeypatch, video, "write_video", InputError(f"{out}/cat.mp4: can't be written: File too large"))
        expected = f"{out}/cat.mp4: can't be written: File too large"
    assert run(model, out, *photos) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == f"error: {expected}"
    assert f"wrote {out}/cup.v2.mp4 in " in printed.out
    assert [path.name for path in out.iterdir()] == ["cup.v2.mp4"]


def fail_first(monkeypatch, module, name, error):
    """Let the first call of a function fail."""
    errors, real = [error], getattr(module, name)

    def failing(*args, **kwargs):
        if errors:
            raise errors.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


REFUSED = {
    "no images": (["--model", "MODEL", "-o", "out"], "no images given, expected at least one image file"),
    "no model": (["CAT", "-o", "out", "--model", "nothing"], "nothing: no such folder"),
    "no out": (["CAT", "--model", "MODEL"], "--out is missing, expected a folder for the clips"),
    "missing image": (["CAT", "no.png", "--model", "MODEL", "-o", "out"], "no.png: no such file"),
    "bad image": (["CAT", "TEXT", "--model", "MODEL", "-o", "out"], "text.png: not an image of a supported format"),
    "two of a name": (
        ["CAT", "CUP", "CAT", "--model", "MODEL", "-o", "out"],
        "cat.png: its clip would have the same name as that of ",
    ),
    "not a model": (["CAT", "--model", "HERE", "-o", "out"], "has no model_index.json, unet/config.json or config.json"),
    "none": (["CAT", "--model", "MODEL", "-o", "out", "--clips-per-image", "0"], "--clips-per-image is 0, expected"),
    "last seed": (
        ["CAT", "--model", "MODEL", "-o", "o", "--seed", "4294967295", "--clips-per-image", "2"],
        "seed is 4294967296",
    ),
    "size": (["CAT", "--model", "MODEL", "-o", "out", "--size", "33x16"], "size 33x16: both sides must be multiples of 4"),
    "frames": (["CAT", "--model", "MODEL", "-o", "out", "--num-frames", "1"], "num_frames is 1"),
    "fps": (["CAT", "--model", "MODEL", "-o", "out", "--fps", "2000"], "fps is 2000, expected a number from 0.01 to 1000"),
    "rate": (["CAT", "--model", "MODEL", "-o", "out", "--playback-fps", "1e3"], "--playback-fps is '1e3', expected a number"),
    "long name": (["CAT", "--model", "MODEL", "-o", "n" * 300], "file name too long"),
    "chunk": (["CAT", "--model", "MODEL", "-o", "out", "--decode-chunk", "0"], "--decode-chunk is 0"),
    "parent": (["CAT", "--model", "MODEL", "-o", "missing/out"], "/missing doesn't exist"),
    "a file": (["CAT", "--model", "MODEL", "-o", "TEXT"], "text.png/: is a file"),
    "format": (["CAT", "--model", "MODEL", "-o", "out", "--format", "gif"], "argument --format: invalid choice: 'gif'"),
    "fusion": (["CAT", "--model", "MODEL", "-o", "out", "--fusion", "linear"], "unrecognized arguments: --fusion linear"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_and_write_nothing(case, model, photos, tmp_path, monkeypatch, capsys):
    arguments, message = REFUSED[case]
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "text.png").write_text("text")
    monkeypatch.setattr("svdjax.model_sources.Checkpoint.load", None)
    names = {
        "CAT": photos[0],
        "CUP": photos[1],
        "MODEL": model,
        "HERE": tmp_path,
        "TEXT": tmp_path / "text.png",
    }
    assert message in refused(capsys, *(names.get(a, a) for a in arguments))
    assert list(here.iterdir()) == []
    assert (tmp_path / "text.png").read_text() == "text"
