"""`python -m sample.evaluate` on a small random model and a folder of clips: outputs, and runs that continue earlier ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import one_line

import svdjax
from sample.evaluate import main
from sample.evaluation import keyframe_pairs, metrics, report
from svdjax.checkpoints.delta import base_tensors, read_backward_info, save_backward
from svdjax.losses.finetuning import TRAINED
from svdjax.world.drawing import render
from svdjax.world.scene import scene

METHODS = "trf,cross-fade,reconstruction"
NAMES = ["TRF (trf)", "cross-fade", "VAE alone (reconstruction)"]  # in the table


@pytest.fixture(scope="module")
def run(training_model, training_clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    assert command(training_model, training_clips, out) == 0
    return out


def command(model, clips, out, *more, methods=METHODS, pairs=3):
    words = ["--model", model, "--data", clips, "--out", out, "--pairs", pairs, "--methods", methods, "--steps", 2]
    words += ["--size", "32x32", "--batch-size", 2, "--workers", 1, "--figures", "frechet", "--cuts", "none"]
    return main([*map(str, words), *map(str, more)])


def frames(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def test_what_is_written(run):
    assert sorted(p.name for p in run.iterdir()) == sorted(
        [*METHODS.split(","), "truth", "results.json", "table.md", "sheet.png", "pairs.csv", "scan.json"]
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
    difference = results["methods"]["cross-fade"]["psnr"]["difference"]
    psnr = {name: np.array(figures["psnr"]["by_pair"]) for name, figures in results["methods"].items()}
    assert difference["mean"] == pytest.approx((psnr["cross-fade"] - psnr["trf"]).mean())
    assert np.sign(difference["interval"]).tolist() == [1, 1]  # a cross-fade against noise
    assert "difference" not in results["methods"]["trf"]["psnr"]
    frames_table, sets_table, note, warning, definitions = (run / "table.md").read_text().split("\n\n")
    for table in (frames_table, sets_table):
        assert [line.split("|")[1].strip() for line in table.splitlines()] == ["3 pairs", "---", *NAMES]
    assert frames_table.splitlines()[-2].split("|")[3].endswith(") * ")
    assert "differs from TRF" in note
    assert warning.startswith("Warning: Frechet distance (edges): 3 samples for 12 features")
    assert len(definitions.splitlines()) == len(results["figures"]) == 4


def test_frames_depend_on_the_seed_of_their_pair(run, training_model):
    """They don't depend on the batch. `made.json` records what they depend on."""
    made = json.loads((run / "trf" / "made.json").read_text())
    model = svdjax.load(training_model, dtype="float32")
    for number in (1, 2):
        first, last = frames(run / "truth" / f"000{number}")[[0, -1]]
        expected = svdjax.interpolate(model, first, last, method="trf", steps=2, seed=made["settings"]["seed"] + number)
        assert np.abs(frames(run / "trf" / f"000{number}").astype(int) - expected).max() <= 1


def test_the_embedded_world(tmp_path, training_model):
    """Positions and headings, and the metrics of the object, for a method that needs no model."""
    words = ["--model", str(training_model), "--num-frames", "8", "--size", "64x64", "--workers", "1", "--data", "world"]
    words += ["--figures", "frechet"]
    assert main([*words, "--methods", "cross-fade", "--pairs", "4", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for number, pair in enumerate(results["pairs"]):
        truth = scene("test", number)
        assert pair["kind"] == truth.kind
        np.testing.assert_array_equal(pair["centres"], truth.centres)
        np.testing.assert_array_equal(pair["headings"], truth.headings)
        np.testing.assert_array_equal(frames(tmp_path / "out" / "truth" / pair["name"]), render(truth))
    found = results["methods"]["cross-fade"]
    assert set(found) == {*metrics.METRICS, "frechet"}
    assert found["trajectory_error"]["mean"] > 2
    low, high = found["frechet"]["interval"]
    assert low <= found["frechet"]["mean"] <= high
    assert " % (" in (tmp_path / "out" / "table.md").read_text()


def test_a_second_run_continues_the_first(run, training_model, training_clips, capsys):
    """Existing frames are reused; a missing clip is generated again with the same result."""
    before = frames(run / "trf" / "0001")
    kept = (run / "trf" / "0000" / "0000.png").stat().st_mtime_ns
    results = json.loads((run / "results.json").read_text())
    shutil.rmtree(run / "trf" / "0001")
    assert command(training_model, training_clips, run) == 0
    np.testing.assert_array_equal(frames(run / "trf" / "0001"), before)
    assert (run / "trf" / "0000" / "0000.png").stat().st_mtime_ns == kept
    assert json.loads((run / "results.json").read_text())["methods"] == results["methods"]
    capsys.readouterr()
    for options, part in (
        (("--seed", 5), "truth/0000: was made from "),
        (("--stride", 2), "truth: its frames were made with stride 1, not 2"),
        (("--recurrence", 1), "trf: its frames were made with settings "),
    ):
        assert command(training_model, training_clips, run, *options) == 2
        assert one_line(capsys.readouterr().err).startswith(f"error: {run}/{part}")


def test_frames_of_other_backward_weights_are_not_reused(training_model, training_clips, tmp_path, capsys):
    """Even if the recorded facts of both fine-tunes are equal: they contain neither the data nor the initial weights."""
    base = {name: np.asarray(value) for name, value in base_tensors(training_model).items()}
    for folder, more in (("a", 0.01), ("b", 0.02)):
        values = {name: value + np.float32(more) for name, value in base.items() if name.endswith(TRAINED)}
        save_backward(tmp_path / folder, values, base, {"steps": 1})
    assert read_backward_info(tmp_path / "a") == read_backward_info(tmp_path / "b")
    assert command(training_model, training_clips, tmp_path / "out", "--backward", tmp_path / "a", pairs=2, methods="dual") == 0
    assert command(training_model, training_clips, tmp_path / "out", "--backward", tmp_path / "a", pairs=2, methods="dual") == 0
    capsys.readouterr()
    assert command(training_model, training_clips, tmp_path / "out", "--backward", tmp_path / "b", pairs=2, methods="dual") == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: {tmp_path}/out/dual: its frames were made with weights ")
    both = ("--backward", tmp_path / "a", "--backward", tmp_path / "b")
    assert command(training_model, training_clips, tmp_path / "out", *both, pairs=2, methods="dual") == 2
    assert "were both trained with rotated maps, expected one folder per kind" in one_line(capsys.readouterr().err)


def replaced_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("mine")


# The damaged path, the damage, and the message after the folder's name.
DAMAGES = {
    "a frame less": ("cross-fade/0001/0001.png", Path.unlink, "cross-fade/0001: lacks 0001.png, expected 0000.png to 0002.png"),
    "a true frame less": ("truth/0001/0002.png", Path.unlink, "truth/0001: lacks 0002.png"),
    "a frame more": ("trf/0001/0003.png", Path.touch, "trf/0001: has 0003.png"),
    "a frame of another size": (
        "trf/0001/0001.png",
        Image.new("RGB", (16, 32)).save,
        "trf/0001/0001.png: is 16x32, expected 32x32",
    ),
    "no picture": ("trf/0001/0001.png", lambda path: path.write_text("mine"), "trf/0001/0001.png: can't be read"),
    "a file for a clip": ("trf/0001", replaced_by_a_file, "trf/0001: is a file, expected a clip's folder"),
    "no facts": ("truth/made.json", lambda path: path.write_text("[]"), "truth/made.json: was not written by an evaluation"),
    "other results": (
        "results.json",
        lambda path: path.write_text('{"precious": 1}'),
        "results.json: was not written by an evaluation and would be replaced",
    ),
    "no results": ("results.json", Path.unlink, "table.md: would be replaced, but there is no results.json beside it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders(damage, run, training_model, training_clips, tmp_path, capsys):
    """Nothing is generated or replaced, even though a clip is missing."""
    out = Path(shutil.copytree(run, tmp_path / "out"))
    shutil.rmtree(out / "trf" / "0002")
    name, change, said = DAMAGES[damage]
    change(out / name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "made.json"}
    capsys.readouterr()
    assert command(training_model, training_clips, out) == 2
    last = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]  # below the progress bar
    assert last.startswith(f"error: {out}/{said}")
    assert {path: path.read_bytes() for path in before} == before


def test_results_are_not_replaced_by_less(run, training_model, training_clips, capsys):
    before = (run / "results.json").read_bytes()
    for pairs, methods in ((2, METHODS), (3, "cross-fade")):
        assert command(training_model, training_clips, run, pairs=pairs, methods=methods) == 2
        assert "results.json: holds 3 pairs of trf,cross-fade,reconstruction" in one_line(capsys.readouterr().err)
    assert (run / "results.json").read_bytes() == before


def test_more_pairs_than_clips(training_model, training_clips, tmp_path, capsys):
    assert command(training_model, training_clips, tmp_path / "out", pairs=100) == 2
    assert " has 8 clips of 3 frames at stride 1 that don't overlap, in 4 videos" in one_line(capsys.readouterr().err)


def test_within_the_data(training_model, training_clips, capsys):
    assert command(training_model, training_clips, training_clips / "out") == 2
    assert "lies in --data" in one_line(capsys.readouterr().err)


REFUSED = {
    "an unknown method": (["--methods", "dual,magic"], "--methods: 'magic' is unknown, expected some of dual,trf,"),
    "no backward weights": (["--methods", "dual"], "--methods: dual needs backward weights trained with rotated maps"),
    "nothing between": (["--num-frames", "2"], "--num-frames is 2, expected at least 3"),
    "no pairs": (["--pairs", "1"], "--pairs is 1, expected at least 2"),
    "other clips than the world's": (
        ["--size", "32x32"],
        "the embedded world has 8 frames of 64x64, not 3 frames of 32x32: give --data DIR",
    ),
    "a stride of the world": (
        ["--num-frames", "8", "--size", "64x64", "--stride", "2"],
        "--stride: applies only to the clips of --data",
    ),
    "chunks": (["--decode-chunk", "2"], "--decode-chunk: changes the picture and is not evaluated"),
    "no parent": (["--out", "nowhere/out"], "nowhere/out: the folder"),
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
    assert "was not written by an evaluation, expected a new folder" in one_line(capsys.readouterr().err)
    assert (tmp_path / "out" / "trf" / "mine.txt").read_text() == "mine"


def kind(pair):
    assert pair.scene is not None
    return pair.scene.kind


def test_the_sheet_shows_the_first_of_each_kind():
    pairs = keyframe_pairs.of_world(30).pairs
    kinds = [kind(pair) for pair in pairs]
    assert kinds[:3] == ["dart"] * 3  # the first few would all be of one kind
    chosen = report.shown(pairs)
    assert sorted(map(kind, chosen)) == ["car", "dart", "fish"]
    assert all(kinds.index(kind(pair)) == int(pair.name) for pair in chosen)
    others = [dataclasses.replace(pair, scene=None) for pair in pairs]
    assert report.shown(others) == others[:3]
