"""`python -m sample.evaluate` on a small random model and a folder of clips, and everything that it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from training import one_line

from sample.evaluate import main

METHODS = "trf,cross-fade"


@pytest.fixture(scope="module")
def run(training_model, training_clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    assert command(training_model, training_clips, out) == 0
    return out


def command(model, clips, out, *more, methods=METHODS, pairs=3):
    words = ["--model", model, "--data", clips, "--out", out, "--pairs", pairs, "--methods", methods, "--steps", 2]
    return main([*map(str, words), "--size", "32x32", "--batch-size", "2", "--workers", "1", *map(str, more)])


def frames(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def test_what_is_written(run):
    assert sorted(p.name for p in run.iterdir()) == sorted(
        [*METHODS.split(","), "truth", "results.json", "table.md", "sheet.png"]
    )
    for name in (*METHODS.split(","), "truth"):
        assert sorted(p.name for p in (run / name).iterdir() if p.is_dir()) == ["0000", "0001", "0002"]
        assert frames(run / name / "0002").shape == (3, 32, 32, 3)
    results = json.loads((run / "results.json").read_text())
    assert [pair["name"] for pair in results["pairs"]] == ["0000", "0001", "0002"]
    for name, figures in results["methods"].items():
        assert set(figures) == {"psnr", "ssim", "end_error", "frechet"}, name
        for figure in figures.values():
            low, high = figure["interval"]
            assert low <= high
        assert np.mean(figures["psnr"]["by_pair"]) == pytest.approx(figures["psnr"]["mean"])
    assert results["methods"]["cross-fade"]["end_error"]["mean"] == 0
    lines = (run / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["3 pairs", "---", *METHODS.split(",")]


def test_pairs_differ_in_their_noise(run):
    """And a method's frames are those of the sampler with the pair's own seed, whatever batch it was in."""
    assert (frames(run / "trf" / "0000") != frames(run / "trf" / "0001")).any()


def test_it_goes_on_where_it_was(run, training_model, training_clips, capsys):
    """Frames that are there are used again, one that is missing is made again and is the same."""
    before = frames(run / "trf" / "0001")
    kept = (run / "trf" / "0000" / "0000.png").stat().st_mtime_ns
    results = json.loads((run / "results.json").read_text())
    shutil.rmtree(run / "trf" / "0001")
    assert command(training_model, training_clips, run) == 0
    np.testing.assert_array_equal(frames(run / "trf" / "0001"), before)
    assert (run / "trf" / "0000" / "0000.png").stat().st_mtime_ns == kept
    assert json.loads((run / "results.json").read_text())["methods"] == results["methods"]
    capsys.readouterr()
    assert command(training_model, training_clips, run, "--seed", 5) == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: {run / 'trf'}: its frames are of settings ")


REFUSED = {
    "an unknown method": (["--methods", "dual,magic"], "--methods: 'magic' is unknown, expected some of dual,trf,"),
    "no backward weights": (["--methods", "dual"], "--methods: dual needs backward weights trained with rotated maps"),
    "no pairs": (["--pairs", "1"], "--pairs is 1, expected at least 2"),
    "other clips than the world's": (
        ["--size", "32x32"],
        "the embedded world has 8 frames of 64x64, asked for are 3 frames of",
    ),
    "chunks": (["--decode-chunk", "2"], "--decode-chunk: changes the picture"),
    "no parent": (["--out", "nowhere/out"], "nowhere/out: there is no folder"),
    "no clips": (["--data", "nothing"], "nothing: no such folder"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(words, said, training_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"--out": "out", "--methods": "trf"} | dict(zip(words[::2], words[1::2], strict=True))
    assert main(["--model", str(training_model), *(word for pair in given.items() for word in pair)]) == 2
    assert said in one_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else(training_model, training_clips, tmp_path, capsys):
    (tmp_path / "out" / "trf").mkdir(parents=True)
    (tmp_path / "out" / "trf" / "mine.txt").write_text("mine")
    assert command(training_model, training_clips, tmp_path / "out") == 2
    assert "holds something else than an evaluation's frames" in one_line(capsys.readouterr().err)
    assert (tmp_path / "out" / "trf" / "mine.txt").read_text() == "mine"
