"""Batches of clips: what is made, kept, refused and reported. A stand-in makes the frames; `test_videos.py` samples."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
from PIL import Image

from sample.batches import making
from sample.batches.metadata import NOISE_HASH
from sample.interpolate import main
from svdjax.media import video

COLUMNS = "first,last,output"
pytestmark = pytest.mark.usefixtures("made")
TINY = ("--size", "32x16", "--num-frames", "3", "--steps", "1", "--recurrence", "0")


def pairs(folder, text, *words):
    (folder / "p.csv").write_text(text)
    return main(["--pairs", str(folder / "p.csv"), *TINY, *words])


def seeds(made):
    return [request.settings.seed for request in made]


def test_a_bad_row_stops_nothing(folder, made, capsys):
    """Bad rows are reported before the work; a clip that fails is reported when it does. All others are made."""
    text = f"{COLUMNS},seed,size,loop\n1.png,2.png,out/a.mp4,1\n1.png,gone.png,b.mp4,2\n2.png,3.png,c,99\n"
    text += "2.png,3.png,a/b/d.mp4,4\n1.png,2.png,e.mp4,5,30x30\n1.png,2.png,out/a.mp4,6\n1.png,2.png,2.png/,6\n"
    text += "1.png,2.png,g.mp4,-7\n1.png,1.png,h.mp4,8,,yes\n3.png,4.png,i.gif,9,16x48\n"
    assert pairs(folder, text) == 2
    printed = capsys.readouterr()
    assert seeds(made) == [1, 99, 9]
    assert made[2].keyframes[0].shape == (48, 16, 3)
    where = f"error: {folder}/p.csv, row"
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    for number, (row, text) in enumerate(
        [
            (3, f"{folder}/gone.png: no such file"),
            (5, f"{folder}/a/b/d.mp4: the folder {folder}/a/b doesn't exist"),
            (6, "size 30x30: both sides must be multiples of 16"),
            (7, f"{folder}/out/a.mp4: is also the output of {folder}/p.csv, row 2, expected another"),
            (8, f"output: {folder}/2.png/: not a directory"),
            (9, "seed is -7, expected a whole number"),
            (10, "loop: the last keyframe equals the first"),
            (4, "latents are not finite after evaluation 1 of 1"),
        ]
    ):
        assert errors[number].startswith(f"{where} {row}: ")
        assert text in errors[number]
    assert errors[8] == f"error: {folder}/p.csv: 8 of 10 pairs failed, see above; the same command tries them again"
    assert "10 pairs: 0 made before, 3 to make, 7 can't be used" in printed.out
    assert "made 2 of 3 clips" in printed.out
    assert (folder / "out" / "a.mp4").exists()
    assert not (folder / "a").exists()


def test_what_is_there_is_kept_and_what_differs_is_refused(folder, made, capsys):
    text = f"{COLUMNS},seed\n1.png,2.png,a.mp4,1\n2.png,3.png,b,2\n3.png,4.png,c.webp,3\n"
    assert pairs(folder, text) == 0
    assert pairs(folder, text) == 0
    assert pairs(folder, text, "--overwrite") == 0  # also then: they are as they would be made
    assert seeds(made) == [1, 2, 3]
    assert "3 pairs: 3 made before, 0 to make" in capsys.readouterr().out
    (folder / "b" / "0000.png").unlink()
    shutil.rmtree(folder / "b")
    assert pairs(folder, text) == 0
    assert seeds(made) == [1, 2, 3, 2]
    other = text.replace(",1\n", ",7\n")
    capsys.readouterr()
    assert pairs(folder, other) == 2
    assert f"row 2: {folder}/a.mp4: exists already, made with seed 1 instead of 7 (--overwrite" in capsys.readouterr().err
    assert pairs(folder, other, "--overwrite") == 0
    assert seeds(made) == [1, 2, 3, 2, 7]
    assert video.read_metadata(folder / "a.mp4")["seed"] == "7"
    (folder / "c.webp").write_bytes((folder / "1.png").read_bytes())
    assert pairs(folder, other) == 2


def test_a_changed_keyframe_is_noticed(folder, made, capsys):
    """Also one that is older than the video, moved to the name; the same picture written again is no change."""
    text = f"{COLUMNS}\n1.png,2.png,a.mp4\n3.png,4.png,b.mp4\n"
    assert pairs(folder, text) == 0
    shutil.copy(folder / "4.png", folder / "copy.png")
    os.utime(folder / "copy.png", (1e9, 1e9))
    (folder / "copy.png").replace(folder / "2.png")
    shutil.copy(folder / "3.png", folder / "copy.png")
    (folder / "copy.png").replace(folder / "3.png")
    assert pairs(folder, text) == 2
    assert f"row 2: {folder}/a.mp4: exists already, made from other keyframes" in capsys.readouterr().err
    assert pairs(folder, text, "--overwrite") == 0
    assert [len(made), pairs(folder, text)] == [3, 0]


def test_changed_noise_is_noticed(folder, made, noise, monkeypatch, capsys):
    """Other values under the same name; not in a video from before its hash was stored."""
    text = f"{COLUMNS},noise\n1.png,2.png,a.mp4,n.npz\n"
    write = making.write

    def write_without_hash(request, *others):
        metadata = {name: value for name, value in request.metadata.items() if name != NOISE_HASH}
        write(dataclasses.replace(request, metadata=metadata), *others)

    noise(1)
    with monkeypatch.context() as patch:
        patch.setattr(making, "write", write_without_hash)
        assert pairs(folder, text) == 0
    noise(2)
    assert [pairs(folder, text), len(made)] == [0, 1]
    (folder / "a.mp4").unlink()
    assert pairs(folder, text) == 0
    noise(2)  # the same values
    assert [pairs(folder, text), len(made)] == [0, 2]
    noise(3)
    capsys.readouterr()
    assert pairs(folder, text) == 2
    assert f"row 2: {folder}/a.mp4: exists already, made with noise_sha256 " in capsys.readouterr().err
    assert [pairs(folder, text, "--overwrite"), pairs(folder, text), len(made)] == [0, 0, 3]
    assert pairs(folder, text.replace("n.npz", "")) == 2
    assert "made with noise n.npz instead of from the seed (--overwrite" in capsys.readouterr().err


def test_each_row_gets_the_weights_of_its_method(folder, made, monkeypatch):
    """The embedded model has other backward weights for `no-rotation`; a model is loaded once for all its rows."""
    loaded = []
    monkeypatch.setattr(
        making.planned_model,
        "load_for_works",
        lambda source, dtype, memory, works, **_: loaded.append(source.backward) or (source.backward, dict.fromkeys(works)),
    )
    methods = ("dual", "no-rotation", "dual", "no-rotation")
    rows = "".join(f"1.png,2.png,{k}.gif,{method}\n" for k, method in enumerate(methods))
    assert pairs(folder, f"{COLUMNS},method\n{rows}") == 0
    assert [request.method for request in made] == ["dual", "dual", "no-rotation", "no-rotation"]
    assert [request.model.backward for request in made] == [loaded[0]] * 2 + [loaded[1]] * 2
    assert loaded[0] != loaded[1]


def test_no_row_may_replace_a_keyframe_of_another(folder, made, capsys):
    (folder / "in").mkdir()
    for k in (1, 2):
        shutil.copy(folder / f"{k}.png", folder / "in" / f"000{k}.png")
        Image.new("RGB", (64, 32)).save(folder / f"{k}.gif")
    text = f"{COLUMNS}\n1.png,2.png,in\n1.png,2.png,1.gif\n1.gif,2.gif,a.mp4\nin/0001.png,in/0002.png,b.mp4\n"
    assert pairs(folder, text, "--overwrite") == 2
    errors = capsys.readouterr().err
    assert f"row 2: {folder}/in: would replace the keyframe {folder}/in/0002.png" in errors
    assert f"row 3: {folder}/1.gif: would replace the keyframe {folder}/1.gif" in errors
    assert len(made) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png", "b.png"], "keyframes: names one video, expected left out with --pairs"),
        (["-o", "a.mp4"], "--out: names one video, expected a column of the table with --pairs"),
        (["--sheet", "a.png"], "--sheet: names one video, expected a column of the table with --pairs"),
        (["--demo"], "--demo: names one video, expected left out with --pairs"),
        (["--frames-in", "."], "--pairs and --frames-in are both given, expected one"),
        (["--num-processes", "2"], "--process-id is missing: give both --num-processes and --process-id"),
    ],
)
def test_refused_with_a_table(folder, made, capsys, words, message):
    assert pairs(folder, f"{COLUMNS}\n1.png,2.png,a.mp4\n", *words) == 2
    assert message in capsys.readouterr().err
    assert not made


def test_a_clip_that_fails_in_a_batch_costs_no_other(folder, made, monkeypatch, capsys):
    """Three clips are sampled together; when that fails, each is tried alone."""
    asked = []
    generate = making.generate_together

    def together(requests, count, *others):
        asked.append([request.settings.seed for request in requests])
        if 99 in asked[-1]:
            raise FloatingPointError("latents are not finite after evaluation 1 of 1")
        return [result for request in requests for result in generate([request], 1, *others)]

    monkeypatch.setattr(making, "generate_together", together)
    monkeypatch.setattr(making, "clips_together", lambda mesh, batch: 3)
    rows = "".join(f"1.png,2.png,{seed}.gif,{seed}\n" for seed in (1, 99, 2, 3))
    assert pairs(folder, f"{COLUMNS},seed\n{rows}") == 2
    assert asked == [[1, 99, 2], [1], [99], [2], [3]]
    assert sorted(path.name for path in folder.glob("*.gif")) == ["1.gif", "2.gif", "3.gif"]
    assert "made 3 of 4 clips" in capsys.readouterr().out
