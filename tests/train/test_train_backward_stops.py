"""Failures of `train.backward`: non-finite values, full disks, damaged files. One error line, and --resume works."""

import dataclasses
import re
import resource
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from training import assert_same_run, losses, one_line, wait_for

from train.run import loss_curve
from train.run.metrics import Metrics
from train.steps.finetuning import Finetuning

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = 6


def changed(monkeypatch, at, **change):
    """Change the result of the step `at`."""
    update = Finetuning.update

    def wrong(self, state, batch):
        state, result = update(self, state, batch)
        return state, dataclasses.replace(result, **change) if batch.step == at else result

    monkeypatch.setattr(Finetuning, "update", wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradient_norm": jnp.float32(np.inf)}, "the loss is 0.43, but the gradient norm is inf"),
        ({"finite": jnp.array(False)}, "the loss is 0.43, but the weights after the step are not finite"),
    ],
)
def test_a_finite_loss_with_other_values_not_finite(run, out, training_run, capsys, monkeypatch, change, message):
    with monkeypatch.context() as patch:
        changed(patch, 5, **change)
        assert run(save_every=1) == 2
    line = one_line(capsys.readouterr().err)
    left = "stopped; the checkpoint of step 4 is complete, and --resume --steps 4 exports its weights"
    pattern = rf"error: step 5: {re.sub('0.43', '0.4[0-9]+', message)}, at sigma [0-9.]+ of c\d.gif[^:]*: {left}"
    assert re.fullmatch(pattern, line), line
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[-1] == "4"
    assert len(losses(out)) == 4
    assert not (out / "backward").exists()
    assert run("--resume", steps=4) == 0
    assert (out / "backward").exists()
    assert run("--resume") == 0
    assert_same_run(out, training_run, STEPS)


def test_a_loss_that_is_not_finite(run, out, training_run, capsys, monkeypatch):
    """From NaN in the noise of step 4, through the real step."""
    examples = Finetuning.examples

    def wrong(self, batch):
        right = examples(self, batch)
        return dataclasses.replace(right, noise=right.noise * jnp.nan) if batch.step == 4 else right

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
    """The largest float32 is 3.4e38: the loss of step 1 is finite, the weights after it are not, and are never saved."""
    assert run(learning_rate=1e39, save_every=1) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: step 1: the loss is 0.4")
    assert line.endswith("stopped; no checkpoint was saved before it")
    assert not list((out / "checkpoints").iterdir())


def limited(monkeypatch, step, size):
    """From the metrics of a step on, limit files to `size(bytes of metrics.csv)` bytes, like a full disk."""
    add = Metrics.add
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def add_limited(self, row):
        if row.step == step:
            # the limit must not hit the previous checkpoint, which is written in the background
            wait_for(lambda: (self.path.parent / "checkpoints" / str(step - 2)).is_dir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size(self.path.stat().st_size), before[1]))
        add(self, row)

    monkeypatch.setattr(Metrics, "add", add_limited)
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (lambda metrics: 4096, r"run/checkpoints: a checkpoint can't be written \(.*\); the checkpoint of step 2 is complete"),
        (lambda metrics: metrics + 10, r"run/metrics.csv: can't be written: File too large; --resume continues"),
    ],
)
def test_a_full_disk(run, out, training_run, capsys, monkeypatch, size, message):
    with monkeypatch.context() as patch:
        patch.setattr(loss_curve, "draw", lambda rows, path: None)  # it would fail first
        unlimited = limited(patch, 4, size)
        try:
            status = run()
        finally:
            unlimited()
    assert status == 2
    assert re.search(message, one_line(capsys.readouterr().err))
    assert not (out / "backward").exists()
    assert run("--resume") == 0
    assert "resuming after step 2" in capsys.readouterr().out
    assert_same_run(out, training_run, STEPS)


def test_no_room_for_the_curve(run, out, training_run, capsys, monkeypatch):
    """The run goes on. Without a limit on files, which would also make the checkpoint fail."""

    def fail(self, path, **options):
        path.write_bytes(b"PNG")
        raise OSError(27, "File too large")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    assert run() == 0
    assert capsys.readouterr().err.count(f"warning: {out}/loss.png: can't be written: File too large; training goes on") == 1
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert not (out / "loss.png").exists()
    assert_same_run(out, training_run, STEPS)


def test_the_newest_checkpoint_damaged(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    for path in (out / "checkpoints" / "6" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-100])
    assert run("--resume") == 0
    printed = capsys.readouterr().out
    assert f"moved to {out / 'damaged' / 'step-6'}" in printed
    assert "resuming after step 4" in printed
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
    assert run("--resume", steps=8) == 0
    assert "metrics.csv: has no rows for 1 of 6 steps" in capsys.readouterr().out
    left = (out / "metrics.csv").read_text().splitlines(keepends=True)
    assert left[:6] == lines[:2] + lines[3:]
    assert [int(line.split(",")[0]) for line in left[6:]] == [7, 8]
