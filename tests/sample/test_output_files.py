"""Outputs of the sampling commands: a failing file costs no other, and no output replaces an input."""

from __future__ import annotations

import shutil
from unittest import mock

import numpy as np
import pytest
from media import read_clip
from PIL import Image

from sample import evaluate, figures, interpolate
from sample.evaluation.options import parser as evaluation_parser
from sample.interpolation_options import parse
from sample.output_files import Outputs
from svdjax.errors import InputError
from svdjax.media import video

LATENTS = [np.zeros((8, 16, 16, 6), np.float32)]


@pytest.fixture
def keyframes(tmp_path):
    """Two keyframes of the embedded model's size."""
    paths = [tmp_path / "first.png", tmp_path / "last.png"]
    for level, path in zip((50, 150), paths, strict=True):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(path)
    return paths


def request(keyframes, *words):
    return parse([*map(str, keyframes), *map(str, words)])


def movie(count=8):
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("lost", ["latents", "sheet", "video", "latents sheet"])
def test_a_file_that_fails_costs_no_other(tmp_path, keyframes, capsys, lost):
    """The folders of some outputs vanish during the work."""
    for name in ("video", "latents", "sheet"):
        (tmp_path / name).mkdir()
    files = {
        "video": tmp_path / "video" / "a.gif",
        "latents": tmp_path / "latents" / "l.npz",
        "sheet": tmp_path / "sheet" / "s.png",
    }
    asked = request(keyframes, "-o", files["video"], "--save-latents", files["latents"], "--sheet", files["sheet"])
    for name in lost.split():
        shutil.rmtree(tmp_path / name)
    capsys.readouterr()
    with pytest.raises(InputError) as error:
        interpolate.write(asked, movie(), LATENTS, 0.0)
    for name, path in files.items():
        assert path.exists() is (name not in lost.split())
        assert (f"{path}: can't be written" in str(error.value)) is (name in lost.split())
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        f"wrote {path}" for name, path in files.items() if name not in lost.split()
    ]


def test_every_failure_is_named():
    outputs = Outputs()
    with outputs.attempt():
        raise InputError("a: can't be written")
    with outputs.attempt():
        open("/nowhere/b")  # noqa: SIM115
    with pytest.raises(KeyboardInterrupt), outputs.attempt():
        raise KeyboardInterrupt
    with pytest.raises(InputError, match=r"^a: can't be written; /nowhere/b: No such file or directory$"):
        outputs.finish()
    Outputs().finish()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.gif", "--sheet", "first.png"], "--sheet first.png: is an input, expected another file"),
        (["-o", "linked.gif", "--sheet", "link.png"], "--sheet link.png: is an input, expected another file"),
        (["-o", "frames", "--sheet", "frames/s.png"], "--sheet frames/s.png: lies in the folder of the frames"),
        (["-o", "given"], "given: would replace the input given/0000.png, expected another output"),
        (["-o", "a.gif", "--sheet", "HOLE/s.png"], "HOLE/s.png"),
        (["-o", "HOLE/a.mp4"], "HOLE/a.mp4"),
        (["-o", "a.gif", "--save-latents", "/proc/l.npz"], "--save-latents /proc/l.npz: can't be written"),
        (["-o", "a.gif", "--save-latents", "a.npz/"], "--save-latents a.npz"),
        (["-o", "a.gif", "--playback-fps", "60"], "--playback-fps is 60, expected a number from 0.01 to 50 for a .gif"),
        (["-o", "a.gif", "--playback-fps", "x"], "--playback-fps is 'x', expected a number above 0"),
        (["--keep-keyframes", "--method", "forward"], "--keep-keyframes: method forward doesn't lead to the last keyframe"),
        (["first.png", "--loop"], "--loop: the last keyframe equals the first; leave it out"),
    ],
)
def test_refused_before_the_work(tmp_path, keyframes, monkeypatch, words, message):
    """Also with --overwrite; HOLE is a folder that doesn't exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.png").symlink_to("first.png")
    for folder in ("frames", "given"):
        (tmp_path / folder).mkdir()
    shutil.copy(keyframes[0], tmp_path / "given" / "0000.png")
    if "a.npz/" in words:
        (tmp_path / "a.npz").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = [tmp_path / "given" / "0000.png" if "given" in words else keyframes[0], keyframes[1]]
    with pytest.raises(InputError) as error:
        request([path.relative_to(tmp_path) for path in given], *words, "--overwrite")
    assert message in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_options_of_the_output_are_stored(tmp_path, keyframes):
    plain = request(keyframes, "-o", tmp_path / "a.mp4")
    assert plain.rate == 7
    assert not {"loop", "keep_keyframes", "playback_fps"} & plain.metadata.keys()
    asked = request(keyframes, "-o", tmp_path / "a.mp4", "--loop", "--keep-keyframes", "--playback-fps", "23.976")
    assert (str(asked.rate), asked.settings.fps, asked.clips) == ("24000/1001", 7, 2)
    interpolate.write(asked, movie(14), LATENTS * 2, 0.0)
    stored = video.read_metadata(tmp_path / "a.mp4")
    assert (stored["loop"], stored["keep_keyframes"], stored["playback_fps"]) == ("yes", "yes", "24000/1001")
    assert stored["fps"] == "7"
    frames, durations = read_clip(tmp_path / "a.mp4")
    assert len(frames) == 14
    assert sum(durations) == pytest.approx(14 * 1001 / 24000)


def test_the_sheet_of_a_loop_shows_each_keyframe_once(tmp_path, keyframes):
    asked = request(keyframes, "-o", tmp_path / "a.gif", "--loop")
    strips = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sample.contact_sheet.render", lambda given: strips.extend(given))
        interpolate.overview(asked, movie(14))
    (_, given), _, (_, faded) = strips
    assert given[:, 0, 0, 0].tolist() == [50, *[255] * 6, 150, *[255] * 6]
    assert faded[:, 0, 0, 0].tolist() == [50, 64, 79, 93, 107, 121, 136, 150, 136, 121, 107, 93, 79, 64]


def test_names_in_metadata_are_text(tmp_path, keyframes):
    odd = keyframes[0].rename(tmp_path / "caf\udce9 \n.png")
    made = request([odd, keyframes[1]], "-o", tmp_path / "a.gif")
    path = video.write_video(made.output, np.zeros((1, 64, 64, 3), np.uint8), made.rate, made.metadata)
    assert video.read_metadata(path)["keyframes"] == "caf\\xe9 \n.png last.png"


def test_results_of_an_evaluation(tmp_path, capsys, monkeypatch):
    """A sheet that fails costs neither the numbers nor the table."""
    for module, name, value in (
        ("sample.evaluate", "generate", None),
        ("sample.quality.measured", "measure", None),
        ("sample.evaluation.summary", "summarise", {"methods": {}}),
        ("sample.evaluation.report", "table", "| the table |"),
    ):
        monkeypatch.setattr(f"{module}.{name}", lambda *args, value=value: value)
    fail = mock.Mock(side_effect=InputError("sheet.png: can't be written: No space left on device"))
    monkeypatch.setattr("sample.evaluation.report.sheet", fail)
    out = tmp_path / "out"
    assert evaluate.main(["--out", str(out), "--pairs", "2", "--methods", "cross-fade,reconstruction"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: sheet.png: can't be written: No space left on device\n"
    assert "| the table |\nwrote results.json, table.md in " in printed.out
    assert "UNet evaluations" not in printed.out  # neither method samples
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "table.md"]
    (out / "sheet.png").mkdir()
    assert evaluate.main(["--out", str(out), "--pairs", "2", "--methods", "cross-fade,reconstruction"]) == 2
    assert capsys.readouterr().err == f"error: --out {out}/sheet.png: is a folder, expected a file\n"


def test_a_folder_of_results_that_is_a_link_to_nothing(tmp_path, capsys):
    (tmp_path / "out").symlink_to("nowhere")
    assert evaluate.main(["--out", str(tmp_path / "out"), "--pairs", "2", "--methods", "cross-fade"]) == 2
    assert capsys.readouterr().err == f"error: --out {tmp_path}/out: is a link to nowhere, which doesn't exist\n"


def test_figures_are_tried_before_the_work(tmp_path, capsys):
    (tmp_path / "limits.webp").mkdir()
    assert figures.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: --out {tmp_path}/limits.webp: is a folder, expected a file\n"


def test_evaluate_lists_only_its_own_options():
    text = " ".join(evaluation_parser().format_help().split())
    assert "--decode-chunk" not in text
    assert "oriented like the first keyframe" not in text
    assert "--playback-fps" not in text
