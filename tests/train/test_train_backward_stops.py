"""What ends `train.backward` against its will, one line each, the last checkpoint whole: values, disks, damage."""

import re
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from training import assert_same_run, losses, one_line, train

from train.run import loop
from train.run.metrics import Metrics
from train.steps.finetuning import Finetuning

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = 6


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def run(training_model, training_clips, out):
    return lambda *others, **options: train(training_model, training_clips, out, *others, **options)


def changed(monkeypatch, at, **change):
    """Change what a step tells."""
    import dataclasses

    update = Finetuning.update

    def wrong(self, state, batch):
        state, result = update(self, state, batch)
        return state, dataclasses.replace(result, **change) if batch.step == at else result

    monkeypatch.setattr(Finetuning, "update", wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gradient_norm": jnp.float32(np.inf)}, "the loss is 0.43, the norm of its gradient inf"),
        ({"finite": jnp.array(False)}, "the loss is 0.43, but the weights after the step are not finite"),
    ],
)
def test_not_finite_though_the_loss_is(run, out, training_run, capsys, monkeypatch, change, said):
    with monkeypatch.context() as patch:
        changed(patch, 5, **change)
        assert run(save_every=1) == 2
    line = one_line(capsys.readouterr().err)
    left = "stopped; the checkpoint of step 4 is whole, and --resume --steps 4 writes what it learnt"
    pattern = rf"error: step 5: {re.sub('0.43', '0.4[0-9]+', said)}, at sigma [0-9.]+ of c\d.gif[^:]*: {left}"
    assert re.fullmatch(pattern, line), line
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == "4"
    assert len(losses(out)) == 4
    assert not (out / "backward").exists()
    assert run("--resume", steps=4) == 0
    assert (out / "backward").exists()
    assert run("--resume") == 0
    assert_same_run(out, training_run, STEPS)


def test_a_loss_that_is_not_finite(run, out, training_run, capsys, monkeypatch):
    """From latents that are not, at step 4: the real step's own result."""
    examples = Finetuning.examples

    def wrong(self, batch):
        import dataclasses

        found = examples(self, batch)
        return dataclasses.replace(found, noise=found.noise * jnp.nan) if batch.step == 4 else found

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "examples", wrong)
        assert run() == 2
    line = one_line(capsys.readouterr().err)
    assert re.match(r"error: step 4: the loss is nan, at sigma [0-9.]+ of c\d.gif.*: stopped; the checkpoint of step 2", line)
    assert len(losses(out)) == 3
    assert run("--resume") == 0
    assert_same_run(out, training_run, STEPS)


@pytest.mark.heavy
def test_a_learning_rate_that_is_too_large(run, out, capsys):
    """float32 ends at 3.4e38: the loss of step 1 is finite, what it leads to is not, and is never saved."""
    assert run(learning_rate=1e39, save_every=1) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: step 1: the loss is 0.4")
    assert line.endswith("stopped; no checkpoint was saved before it")
    assert not list((out / "checkpoints").iterdir())


def limited(monkeypatch, step, size):
    """From the row of a step on no file may have more than `size(out's metrics)` bytes, as on a full disk."""
    add = Metrics.add
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def add_limited(self, row):
        if row.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size(self.path.stat().st_size), before[1]))
        add(self, row)

    monkeypatch.setattr(Metrics, "add", add_limited)
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (lambda metrics: 4096, r"run/checkpoints: a checkpoint can't be written \(.*\); that of step 2 is whole"),
        (lambda metrics: metrics + 10, r"run/metrics.csv: can't be written: File too large; --resume goes on"),
    ],
)
def test_a_full_disk(run, out, training_run, capsys, monkeypatch, size, said):
    with monkeypatch.context() as patch:
        patch.setattr(loop.curve, "draw", lambda rows, path: None)  # which would fail first
        unlimited = limited(patch, 4, size)
        try:
            status = run()
        finally:
            unlimited()
    assert status == 2
    assert re.search(said, one_line(capsys.readouterr().err))
    assert not (out / "backward").exists()
    assert run("--resume") == 0
    assert "going on after step 2" in capsys.readouterr().out
    assert_same_run(out, training_run, STEPS)


def test_no_room_for_the_curve(run, out, training_run, capsys, monkeypatch):
    """The limit of the test above would hold for the checkpoint that is being written, too."""

    def fail(self, path, **options):
        path.write_bytes(b"PNG")
        raise OSError(27, "File too large")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", fail)
        assert run() == 2
    assert "run/loss.png: can't be written: File too large" in one_line(capsys.readouterr().err)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert run("--resume") == 0
    assert "going on after step 2" in capsys.readouterr().out
    assert_same_run(out, training_run, STEPS)


def test_the_newest_checkpoint_damaged(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    for path in (out / "checkpoints" / "6" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert run("--resume") == 0
    said = capsys.readouterr().out
    assert f"moved to {out / 'damaged' / 'step-6'}" in said
    assert "going on after step 4" in said
    assert_same_run(out, training_run, STEPS)


def test_all_checkpoints_damaged(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    for path in (out / "checkpoints").rglob("manifest.ocdbt"):
        path.unlink()
    before = (out / "metrics.csv").read_text()
    for _ in range(2):
        assert run("--resume") == 2
        assert "run/checkpoints: none of 3 checkpoints can be read" in one_line(capsys.readouterr().err)
    assert (out / "metrics.csv").read_text() == before


def test_metrics_that_were_changed(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    lines = (out / "metrics.csv").read_text().splitlines(keepends=True)
    (out / "metrics.csv").write_text("".join(lines[:2] + lines[3:]))
    assert run("--resume", steps=8) == 2
    assert "metrics.csv: 5 rows up to step 6, expected one for each" in one_line(capsys.readouterr().err)
