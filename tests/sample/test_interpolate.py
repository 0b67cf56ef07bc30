"""`python -m sample.interpolate` from end to end on model A, and everything that it refuses."""

from __future__ import annotations

import goldens
import imageio.v3 as iio
import numpy as np
import pytest
import svd_folders
from skimage import data

import svdjax
from convert.svd_to_flax import main as convert
from sample.interpolate import main, parse
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.delta import base_tensors, save_backward
from svdjax.checkpoints.orbax_trees import restore_tree, tree_shapes
from svdjax.media import video
from svdjax.media.fit import fit

KEYFRAMES = [str(goldens.DATA / f"frame{i}.png") for i in (1, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pipeline_data):
    """Model A converted, with and without backward weights, and the recorded draws as a file."""
    folder = tmp_path_factory.mktemp("A")
    goldens.write_model(folder)
    source, backward = str(folder / "model"), str(folder / "backward")
    assert convert([source, str(folder / "svd"), "--backward", backward]) == 0
    assert convert([source, str(folder / "forward-only")]) == 0
    recurrence = {"recurrence": pipeline_data["recurrence"][:, 0]}
    draws = {"augmentation": pipeline_data["noise_aug"][0], "initial": pipeline_data["initial"][0]}
    np.savez(folder / "noise.npz", **draws)
    np.savez(folder / "noise-recurrence.npz", **draws, **recurrence)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A smaller model, which compiles faster, whose videos depend on their keyframes and seeds."""
    folder = tmp_path_factory.mktemp("small")
    source = svd_folders.enliven(svd_folders.write(folder / "source"))
    svd_folders.network("unet", seed=1).save_pretrained(folder / "tuned")
    assert convert([str(source), str(folder / "svd"), "--backward", str(folder / "tuned")]) == 0
    return folder


def command(folder, *args, keyframes=KEYFRAMES, size="192x128"):
    args = [str(a) for a in args]
    return main([*keyframes, "--model", str(folder / "svd"), "--steps", "4", "--size", size, *args])


def test_the_official_video(folder, tmp_path, capsys, pipeline_data):
    """Recorded draws in, the official code's latents and frames out."""
    latents = tmp_path / "latents.npz"
    assert command(folder, "--noise", folder / "noise.npz", "--save-latents", latents, "-o", tmp_path / "frames") == 0
    # the recorded runs encode with PyTorch, whose own two paths differ by 1.5e-5
    assert goldens.relative(np.load(latents)["latents"], pipeline_data["avg/step_out"][-1]) < 1e-4
    names = [f"{i:04d}.png" for i in range(5)]
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == names
    frames = np.stack([iio.imread(tmp_path / "frames" / name) for name in names])
    assert np.abs(frames.astype(int) - pipeline_data["avg/frames"]).max() <= 2
    metadata = video.read_metadata(tmp_path / "frames")
    assert metadata["noise"] == "noise.npz"
    assert metadata["steps"] == "4"
    assert metadata["backward"] == "the model's own"
    assert "sampling: 100%" in capsys.readouterr().err


@pytest.mark.heavy
def test_backward_weights_of_a_training_run(folder, tmp_path, capsys, pipeline_data):
    """The official fine-tuned weights as a difference, beside the model without any: the official latents again."""
    base, sources = base_tensors(folder / "forward-only"), read_info(folder / "forward-only").sources
    tuned = restore_tree(folder / "svd" / "backward", tree_shapes(folder / "svd" / "backward"))
    run = tmp_path / "run" / "backward"
    run.parent.mkdir()
    save_backward(run, tuned, base, {"sources": sources}, dtype="float32")
    save_backward(tmp_path / "other", tuned, base, {"sources": dict.fromkeys(sources, "0")})
    model = ("--model", folder / "forward-only", "--num-frames", 5, "--noise", folder / "noise.npz")
    latents = tmp_path / "latents.npz"
    assert command(folder, *model, "--backward", run, "--save-latents", latents, "-o", tmp_path / "a") == 0
    assert goldens.relative(np.load(latents)["latents"], pipeline_data["avg/step_out"][-1]) < 1e-4
    assert video.read_metadata(tmp_path / "a")["backward"] == "run/backward"
    assert "transferred" not in capsys.readouterr().out
    assert command(folder, *model, "--backward", tmp_path / "other", "-o", tmp_path / "b") == 0
    note = f"{tmp_path / 'other'}: trained from another UNet than the model's: transferred as a difference\n"
    assert note in capsys.readouterr().out


def test_the_seed_fixes_the_video_and_python_makes_the_same(small, tmp_path):
    arguments = ("--seed", 3, "--recurrence", 1)
    for name, more in (("a", ()), ("b", ()), ("other", ("--seed", 4))):
        assert command(small, *arguments, *more, "-o", tmp_path / name, size="24x16") == 0
    a, b, other = (np.stack([iio.imread(p) for p in sorted((tmp_path / name).iterdir())]) for name in ("a", "b", "other"))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a.astype(int) - other).mean() > 1
    first, last = (fit(goldens.keyframe(i), (24, 16), "crop") for i in (1, 2))
    python = svdjax.interpolate(svdjax.load(small / "svd"), first, last, steps=4, seed=3, recurrence=1, progress=print)
    np.testing.assert_array_equal(a, python)
    assert video.read_metadata(tmp_path / "a")["seed"] == "3"


def test_the_model_decides_about_steps_and_recurrence(small):
    """The embedded model has other defaults than one that is named (`test_embedded.py`)."""
    words = [*KEYFRAMES, "--model", str(small / "svd"), "--size", "192x128"]
    settings = parse(words).settings
    assert (settings.steps, settings.recurrence) == (50, 0)
    settings = parse([*words, "--steps", "7", "--recurrence", "2"]).settings
    assert (settings.steps, settings.recurrence) == (7, 2)


def test_photographs_of_different_sizes_and_three_keyframes(small, tmp_path, capsys):
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, photo in zip(paths, photos, strict=True):
        iio.imwrite(path, photo)
    out = tmp_path / "out.mp4"
    latents = tmp_path / "latents.npz"
    args = ("--num-frames", 3, "--fps", 5, "--decode-chunk", 2, "--guidance", 1, 1, "--save-latents", latents, "-o", out)
    assert command(small, *args, keyframes=paths, size="32x32") == 0
    movie = iio.imread(out)
    # two clips of three frames share the middle keyframe
    assert movie.shape == (5, 32, 32, 3)
    assert iio.immeta(out, plugin="pyav")["fps"] == 5
    assert np.load(latents)["latents"].shape == (2, 3, 16, 16, 4)
    printed = capsys.readouterr()
    assert "1.png 600x400: scaled and cropped to 32x32" in printed.out
    assert "sampling 2 clips: 100%" in printed.err


def test_a_chain_in_python_is_its_pairs(small):
    """Neighbouring clips share a keyframe, which is shown once; progress counts the evaluations of all pairs."""
    model = svdjax.load(small / "svd")
    keyframes = [fit(goldens.keyframe(i), (24, 16), "crop") for i in (1, 2, 1)]
    settings = {"steps": 4, "recurrence": 1, "num_frames": 5, "seed": 3}
    seen = []
    chain = svdjax.interpolate(model, *keyframes, **settings, progress=lambda done, total: seen.append((done, total)))
    assert chain.shape == (9, 16, 24, 3)
    first, second = (svdjax.interpolate(model, *keyframes[i : i + 2], **settings, progress=print) for i in (0, 1))
    np.testing.assert_array_equal(chain, np.concatenate([first, second[1:]]))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    with pytest.raises(svdjax.InputError, match="1 keyframe given, expected at least two"):
        svdjax.interpolate(model, keyframes[0])


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_other_formats(small, tmp_path, ending):
    out = tmp_path / f"out{ending}"
    assert command(small, "-o", out, "--recurrence", 1, size="24x16") == 0
    assert sum(1 for _ in iio.imiter(out)) == 5
    assert video.read_metadata(out)["guidance"] == "1 3"


REFUSED = {
    "no keyframes": (["--model", "SVD"], "0 keyframes"),
    "one keyframe": (["FRAME", "--model", "SVD"], "1 keyframes"),
    "a demo of something else": (["--demo", "--model", "SVD"], "--demo has its own model and keyframes"),
    "a demo into nothing": (["--demo", "-o", ""], "argument -o/--out: is empty, expected a path"),
    "a sheet": (["FRAME", "FRAME", "--model", "SVD", "--sheet", "a.jpg"], "--sheet a.jpg: expected a file name ending in .png"),
    "missing model": (["FRAME", "FRAME", "--model", "nowhere"], "nowhere"),
    "not a checkpoint": (["FRAME", "FRAME", "--model", "HERE"], "HERE"),
    "no backward weights": (["FRAME", "FRAME", "--model", "FORWARD", "--method", "dual"], "--backward"),
    "not backward weights": (
        ["FRAME", "FRAME", "--model", "FORWARD", "--backward", "SVD"],
        "expected a folder that train.backward writes",
    ),
    "missing keyframe": (["FRAME", "no.png", "--model", "SVD"], "no.png"),
    "unknown option": (["FRAME", "FRAME", "--model", "SVD", "--stepz", "4"], "--stepz"),
    "size": (["FRAME", "FRAME", "--model", "SVD", "--size", "200x128"], "192x128"),
    "size text": (["FRAME", "FRAME", "--model", "SVD", "--size", "big"], "big"),
    "frames": (["FRAME", "FRAME", "--model", "SVD", "--num-frames", "1"], "num_frames"),
    "steps": (["FRAME", "FRAME", "--model", "SVD", "--steps", "0"], "steps"),
    "guidance": (["FRAME", "FRAME", "--model", "SVD", "--guidance", "3", "1"], "guidance"),
    "ratio": (["FRAME", "FRAME", "--model", "SVD", "--recurrence-ratio", "1.5"], "recurrence_ratio"),
    "fusion": (["FRAME", "FRAME", "--model", "SVD", "--fusion", "max"], "max"),
    "steps of lcm": (["FRAME", "FRAME", "--model", "SVD", "--schedule", "lcm", "--steps", "41"], "at most 40"),
    "steps of the jump": (["FRAME", "FRAME", "--model", "SVD", "--method", "trf-shipped", "--steps", "5"], "at least 10"),
    "prefix steps": (["FRAME", "FRAME", "--model", "SVD", "--prefix-steps", "2"], "--prefix-steps: there is no prefix"),
    "prefix": (["FRAME", "FRAME", "--model", "SVD", "--method", "forward", "--prefix", "mpd"], "prefix mpd: method forward"),
    "guidance steps": (["FRAME", "FRAME", "--model", "SVD", "--guidance-steps", "4", "2"], "guidance_steps is (4, 2)"),
    "chunk": (["FRAME", "FRAME", "--model", "SVD", "--decode-chunk", "0"], "--decode-chunk"),
    "ending": (["FRAME", "FRAME", "--model", "SVD", "-o", "out.avi"], "out.avi"),
    "parent": (["FRAME", "FRAME", "--model", "SVD", "-o", "missing/out.mp4"], "missing"),
    "noise": (["FRAME", "FRAME", "--model", "SVD", "--size", "128x128", "--noise", "NOISE"], "augmentation has shape"),
    "latents ending": (["FRAME", "FRAME", "--model", "SVD", "--save-latents", "latents.txt"], "latents.txt"),
    "latents parent": (["FRAME", "FRAME", "--model", "SVD", "--save-latents", "missing/l.npz"], "missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_one_line_and_write_nothing(case, folder, tmp_path, monkeypatch, capsys):
    arguments, message = REFUSED[case]
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    names = {
        "FRAME": KEYFRAMES[0],
        "SVD": str(folder / "svd"),
        "FORWARD": str(folder / "forward-only"),
        "NOISE": str(folder / "noise.npz"),
        "HERE": str(tmp_path),
    }
    assert main([names.get(a, a) for a in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert names.get(message, message) in printed.err
    assert list(here.iterdir()) == []


def test_an_existing_output_is_kept_unless_told_otherwise(folder, tmp_path, capsys):
    out = tmp_path / "out.gif"
    out.write_bytes(b"precious")
    assert command(folder, "-o", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"


def test_non_finite_latents_stop_before_decoding(small, tmp_path, capsys):
    """Guidance of 1e39 is infinite in float32."""
    words = ("--guidance", "1e39", "1e39", "--recurrence", 1, "-o", tmp_path / "out.mp4")
    assert command(small, *words, size="24x16") == 2
    printed = capsys.readouterr().err
    assert "error: latents are not finite after evaluation" in printed
    assert "decoding" not in printed
    assert list(tmp_path.iterdir()) == []


def test_keyframes_in_python_are_checked(folder):
    model = svdjax.load(folder / "svd")
    good = goldens.keyframe(1)
    bad = [good.astype(np.float32), good[:100], good[..., :2], good[:64]]
    for image in bad:
        with pytest.raises(svdjax.InputError) as error:
            svdjax.interpolate(model, good, image)
        assert "\n" not in str(error.value)
