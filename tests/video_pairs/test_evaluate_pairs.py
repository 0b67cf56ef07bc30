"""`python -m sample.evaluate` on pairs of a manifest, and with clips of another program."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from training import one_line

from sample.evaluate import main
from sample.evaluation import run_folder
from sample.evaluation.options import parser
from sample.video_pairs import options as pair_options
from svdjax.errors import InputError
from svdjax.sampling.settings import Settings


def command(model, clips, out, *more, methods):
    words = ["--model", model, "--data", clips, "--out", out, "--pairs", 3, "--methods", methods, "--size", "32x32"]
    return main([*map(str, words), "--workers", "1", "--figures", "frechet", *map(str, more)])


def frames(folder):
    """The frames of a clip's folder, uint8 (f, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.fixture(scope="module")
def run(training_model, training_clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "out"
    assert command(training_model, training_clips, out, "--cuts", "none", methods="cross-fade") == 0
    return out


@pytest.fixture(scope="module")
def manifest_run(run, training_model, training_clips, tmp_path_factory):
    """The pairs of `run`'s manifest again, with clips of another program for two of three pairs."""
    film = tmp_path_factory.mktemp("film")
    for name in ("0000", "0002"):
        (film / name).mkdir()
        for i, frame in enumerate(np.repeat(frames(run / "truth" / name), 2, 0)):
            Image.fromarray(frame).save(film / name / f"{i}.png")
    words = ["--manifest", run / "pairs.csv", "--clips", f"FILM={film}", "--gap", 2]
    out = tmp_path_factory.mktemp("again") / "out"
    return out, lambda: command(training_model, training_clips, out, *words, methods="cross-fade,nearest")


def test_the_same_pairs_from_the_manifest(run, manifest_run, capsys):
    out, again = manifest_run
    assert again() == 0
    said = capsys.readouterr().out
    assert "FILM: no clip of 1 of 3 pairs, such as 0001; it is compared on the others" in said
    assert "FILM: 2 of 2 clips have another shape, such as 0000 (6 frames of 32x32); frames of another size are" in said
    for name in ("truth", "cross-fade"):
        for pair in ("0000", "0001", "0002"):
            np.testing.assert_array_equal(frames(out / name / pair), frames(run / name / pair))
    assert (out / "pairs.csv").read_bytes() == (run / "pairs.csv").read_bytes()
    assert sorted(path.name for path in (out / "FILM").iterdir() if path.is_dir()) == ["0000", "0002"]
    results = json.loads((out / "results.json").read_text())
    assert list(results["methods"]) == ["cross-fade", "nearest", "FILM"]
    assert len(results["pairs"]) == 3
    assert (results["clips"]["gap"], results["clips"]["frames"], results["clips"]["width"]) == (2, 3, 32)
    assert "nearest in time" in results["clips"]["rule of --clips"]


def test_another_fit_than_the_manifest(run, training_model, training_clips, tmp_path, capsys):
    """Also the default fit, if it is given; without the option, the manifest's is used."""
    padded = tmp_path / "pairs.csv"
    padded.write_text((run / "pairs.csv").read_text().replace(",crop,", ",pad,"))
    words = ["--manifest", padded, "--fit", "crop"]
    assert command(training_model, training_clips, tmp_path / "out", *words, methods="cross-fade") == 2
    assert f"--fit crop: --manifest {padded} has pad; leave it out" in one_line(capsys.readouterr().err)
    args = parser().parse_args([*map(str, words[:2]), "--data", str(training_clips), "--out", "out"])
    pair_options.prepare(args)
    assert args.fit == "pad"


def test_clips_of_another_program_that_changed(manifest_run, tmp_path, capsys):
    out, again = manifest_run
    assert again() == 0
    made = json.loads((out / "FILM" / "made.json").read_text())
    made["clips"]["0002"] = "0002, SHA-256 0"
    (out / "FILM" / "made.json").write_text(json.dumps(made))
    capsys.readouterr()
    assert again() == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: {out}/FILM/0002: was made from 0002, SHA-256 0, not 0002, SHA")


def test_folders_of_an_earlier_version(tmp_path):
    """New fields of the settings had their default; clips that were chosen at random are not continued."""
    facts = {"settings": dataclasses.asdict(Settings(steps=7)) | {"guidance": [1.0, 3.0]}, "clips": {"0000": "a"}}
    older = {name: value for name, value in facts["settings"].items() if name not in ("schedule", "prefix")}
    made = tmp_path / "made.json"
    made.write_text(json.dumps({"settings": older, "clips": {"0000": "a", "0001": "b"}}))
    run_folder.check_frames(tmp_path, facts)
    with pytest.raises(InputError, match="its frames were made with settings "):
        run_folder.check_frames(tmp_path, facts | {"settings": facts["settings"] | {"schedule": "ays"}})
    with pytest.raises(InputError, match=r"0000: was made from a, not c: give another --out"):
        run_folder.check_frames(tmp_path, facts | {"clips": {"0000": "c"}})
    made.write_text(json.dumps({"settings": older, "pairs' seed": 0}))
    with pytest.raises(InputError, match="its clips were chosen from --data in another way"):
        run_folder.check_frames(tmp_path, facts)


REFUSED = {
    "a fit of the world": (["--fit", "pad"], "--fit: applies only to the clips of --data"),
    "a manifest of the world": (["--manifest", "pairs.csv"], "--manifest: applies only to the clips of --data"),
    "a gap of one": (["--gap", "1"], "--gap is 1, expected at least 2"),
    "another number of frames than the gap's": (
        ["--gap", "7", "--num-frames", "9"],
        "--num-frames 9: a --gap of 7 has 8 frames; leave it out",
    ),
    "a prefix of no method": (["--methods", "mpd+magic"], "--methods: 'mpd+magic' method 'magic': unknown"),
    "a prefix of one direction": (["--methods", "mpd+forward"], "doesn't lead to the last keyframe"),
    "clips without a name": (["--clips", "film"], "--clips film: expected NAME=DIR"),
    "clips named like a method": (["--clips", "rife=."], "the name rife is taken"),
    "clips named like the results": (["--clips", "results.json=."], "the name results.json is taken"),
    "clips named like a given report": (["--html", "out/a.html", "--clips", "A.html=."], "the name A.html is taken"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(words, said, training_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    methods = [] if "--methods" in words else ["--methods", "cross-fade"]
    assert main(["--model", str(training_model), "--out", "out", *methods, *words]) == 2
    assert said in one_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
