"""The folder of a run: one without a finished step refuses nothing, and no weights are lost."""

import json
import os
import shutil

import jax.numpy as jnp
import media
import pytest

from svdjax.data.motion import Skipped
from svdjax.data.scan import ScanResult
from svdjax.data.scan_records import ScanRecords
from svdjax.errors import InputError
from train.run import run_folder
from train.run.checkpoints import Checkpoints
from train.run.prepared_folder import prepared
from train.run.run_folder import check_new_or_resumed
from train.steps.state import State

SETTINGS = {"--seed": 0, "--batch-size": 1}
OTHER = {"--seed": 0, "--batch-size": 2}
ROWS = "step,loss,gradient_norm,sigma\n1,0.5,0.25,0.125\n"


def start(out, settings, resume=False):
    """Check the folder and prepare it, as a command does; returns whether a run is resumed."""
    resumed = check_new_or_resumed(out, resume)
    with prepared(out, settings, ScanResult(()), ScanRecords(), resumed=resumed):
        return resumed


def refusal(out, settings, resume=False):
    with pytest.raises(InputError) as e:
        start(out, settings, resume)
    return str(e.value)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, 3) as saved:
        for step in (2, 4):
            saved.save(State(jnp.int32(step), {"a": jnp.ones(3)}, {}), {"settings": SETTINGS}, 1.0)
            saved.wait()
    return folder


def settings_of(out):
    return run_folder.read_settings(out)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_a_step_refuses_nothing(out, resume):
    assert not start(out, SETTINGS)
    (out / "metrics.csv").write_text(ROWS.splitlines()[0] + "\n")  # as written before the first step
    (out / "tensorboard").mkdir()
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir()  # killed in the first save
    assert not start(out, OTHER, resume)
    assert settings_of(out) == OTHER


@pytest.mark.parametrize("content", [None, "", "{", "\0\0\0", "[1]", '{"format": "svdjax-run"}'])
def test_a_half_made_folder(out, content):
    """As a crash or a full disk leaves it."""
    out.mkdir()
    (out / ".svdjax-0123.partial").write_text('{"form')
    if content is not None:
        (out / "run.json").write_text(content)
        (out / "data.csv").write_text("")
    assert not start(out, OTHER)
    assert settings_of(out) == OTHER
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_files_of_others_are_not_replaced(out):
    for names in (["thesis.txt"], ["data.csv"], ["metrics.csv"], ["run.json", "thesis.txt"]):
        out.mkdir()
        for name in names:
            (out / name).write_text("mine")
        for resume in (False, True):
            assert refusal(out, SETTINGS, resume) == f"{out}: exists and holds no run of this command, expected a new folder"
        assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "mine")
        shutil.rmtree(out)
    out.mkdir()
    for text, found in (
        ('{"format": "other", "version": 1, "settings": {}}', "other 1"),
        ('{"format": "svdjax-run", "version": 9, "settings": {}}', "svdjax-run 9"),
    ):
        (out / "run.json").write_text(text)
        assert refusal(out, SETTINGS, True).startswith(f"{out / 'run.json'}: is {found}, expected svdjax-run 1")


def test_steps_without_a_checkpoint(out, capsys):
    """Nothing can be resumed: with --resume the run starts again, with other settings too, and the old metrics stay."""
    start(out, SETTINGS)
    (out / "metrics.csv").write_text(ROWS)
    held = f"{out}: holds a run already; --resume continues it, another --out begins a new one"
    assert refusal(out, OTHER) == refusal(out, SETTINGS) == held
    assert start(out, SETTINGS, True)
    assert (out / "metrics.csv").read_text() == ROWS
    capsys.readouterr()
    assert start(out, OTHER, True)
    assert settings_of(out) == OTHER
    assert (out / "metrics-1.csv").read_text() == ROWS
    printed = capsys.readouterr().out
    assert "--batch-size 1, not --batch-size 2: expected the same; it has no checkpoint, so a new run starts there" in printed
    assert "metrics.csv: kept as metrics-1.csv" in printed


@pytest.mark.parametrize(("name", "option"), [("backward", "--init"), ("model", "--model")])
def test_a_result_without_checkpoints_is_never_replaced(out, checkpoints, name, option):
    """The run would start again from step 1."""
    start(out, SETTINGS)
    shutil.copytree(checkpoints, out / name)
    (out / "checkpoints").mkdir()
    before = sorted(out.rglob("*"))
    for settings in (SETTINGS, OTHER):
        for resume in (False, True):
            line = refusal(out, settings, resume)
            assert line.startswith(f"{out}: holds the result {name} but no checkpoint to resume from: expected another --out")
            assert f"{option} {out / name} starts there" in line
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("name", ["damaged", "checkpoints"])
def test_weights_are_only_replaced_by_the_same_run(out, checkpoints, name):
    start(out, SETTINGS)
    shutil.copytree(checkpoints, out / name)
    assert "holds a run already" in refusal(out, SETTINGS)
    assert refusal(out, OTHER, True).startswith(f"{out}: is of a run with --batch-size 1, not --batch-size 2")
    assert start(out, SETTINGS, True)


def test_no_step_is_left_to_do(out, checkpoints):
    """Then `--steps` may be the steps done, although the run had more; `run.json` keeps its own."""
    saved = SETTINGS | {"--steps": 9}
    start(out, saved)
    shutil.copytree(checkpoints, out / "checkpoints")
    for steps in (2, 5):
        assert f"--steps 9, not --steps {steps}: expected the same" in refusal(out, SETTINGS | {"--steps": steps}, True)
    assert start(out, SETTINGS | {"--steps": 4}, True)
    assert settings_of(out) == saved


@pytest.mark.parametrize("content", [None, "", "{", '{"format": "svdjax-run"}'])
def test_settings_lost_but_checkpoints_whole(out, checkpoints, content, capsys):
    """The checkpoints hold the settings."""
    start(out, SETTINGS)
    shutil.copytree(checkpoints, out / "checkpoints")
    (out / "run.json").unlink()
    if content is not None:
        (out / "run.json").write_text(content)
    assert "holds a run already" in refusal(out, SETTINGS)
    assert "is of a run with --batch-size 1, not --batch-size 2" in refusal(out, OTHER, True)
    assert settings_of(out) is None
    assert start(out, SETTINGS, True)
    note = "run.json: is missing or damaged: written again, with the settings stored with the checkpoint of step 4"
    assert note in capsys.readouterr().out
    assert settings_of(out) == SETTINGS


def test_settings_lost_and_checkpoints_damaged(out, checkpoints):
    start(out, SETTINGS)
    shutil.copytree(checkpoints, out / "checkpoints")
    (out / "run.json").unlink()
    for path in (out / "checkpoints").rglob("facts/*"):
        path.write_text("")
    before = sorted(out.rglob("*"))
    assert "checkpoints: none of 2 checkpoints can be read (step 2: " in refusal(out, SETTINGS, True)
    assert sorted(out.rglob("*")) == before


def test_settings_of_an_earlier_version(out, checkpoints):
    """Which lack options that were added later."""
    start(out, SETTINGS)
    shutil.copytree(checkpoints, out / "checkpoints")
    before = (out / "run.json").read_bytes()
    assert start(out, SETTINGS | {"--new": None}, True)
    assert (out / "run.json").read_bytes() == before


def test_started_by_another_process_meanwhile(out):
    assert not check_new_or_resumed(out, False)
    start(out, SETTINGS)
    (out / "metrics.csv").write_text(ROWS)
    with pytest.raises(InputError, match="another process has just started a run there"):
        prepared(out, OTHER, ScanResult(()), ScanRecords(), resumed=False).__enter__()


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "link: is a link that leads nowhere, expected a folder" in refusal(tmp_path / "link", SETTINGS)
    for out in ("/proc/run", "/proc", "/dev/null/run", tmp_path / ("a" * 300)):
        assert refusal(tmp_path / out, SETTINGS).startswith(f"{out}: ")
    with media.open_folder() as folder, media.unprivileged():
        assert "no permission to write there" in refusal(folder / "run", SETTINGS)
    assert sorted(os.listdir(tmp_path)) == ["link"]


def test_checkpoints_that_cannot_be_written(out):
    start(out, SETTINGS)
    (out / "checkpoints").write_text("?")
    assert refusal(out, SETTINGS) == f"{out / 'checkpoints'}: is not a folder, expected the checkpoints of the run"


def test_side_files_that_cannot_be_written(out, capsys):
    out.mkdir()
    start(out, SETTINGS)
    for name in ("data.csv", "scan.json"):
        (out / name).unlink()
        (out / name).mkdir()
    assert not start(out, SETTINGS)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"warning: {out / name}: can't be written: Is a directory; training goes on" for name in ("data.csv", "scan.json")
    ]


def test_names_that_are_not_unicode(out):
    name = os.fsdecode(b"caf\xe9\n.mp4")
    skipped = (Skipped(name=name, kind="video", reason="unreadable", detail=f"{name}: damaged"),)
    with prepared(out, {"--data": name}, ScanResult((), skipped=skipped), ScanRecords(), resumed=False):
        assert b"caf\xe9" in (out / "data.csv").read_bytes()
    assert settings_of(out) == {"--data": name}
    assert json.loads((out / "run.json").read_text())["settings"]["--data"] == name


def test_settings_in_a_named_pipe(tmp_path):
    """Refused instead of waiting for a writer."""
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(InputError, match="is a named pipe, expected a file"):
        run_folder.read_settings(tmp_path)
