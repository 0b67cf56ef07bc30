"""`python -m train.backward`: stop and resume, bit for bit; the trained tensors; the exported weights."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from training import assert_same_run, losses, train

from svdjax.checkpoints import checkpoint
from svdjax.checkpoints.delta import read_backward_info
from svdjax.models.backward import tensor_kind
from svdjax.models.svd import leaves
from train.run.metrics import Metrics
from train.steps import finetuning
from train.steps.finetuning import Finetuning
from train.steps.state import State

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = 6


@pytest.fixture
def run(training_model, training_clips, tmp_path):
    """The command with the model, the clips and OUT; see `training.arguments` for the options."""
    return lambda *others, **options: train(training_model, training_clips, tmp_path / "run", *others, **options)


@pytest.fixture
def last_step(monkeypatch):
    """A function that returns the last `Finetuning` that the command constructed."""
    instances = []

    class Recorded(Finetuning):
        def __init__(self, *args):
            super().__init__(*args)
            instances.append(self)

    monkeypatch.setattr(finetuning, "Finetuning", Recorded)
    return lambda: instances[-1]


def test_resumed(run, out, training_run, capsys):
    assert run(steps=3) == 0
    assert run("--resume", steps=4) == 0
    assert run("--resume", steps=STEPS) == 0
    assert_same_run(out, training_run, STEPS)
    assert "resuming after step 4 of 6, saved on mesh data=1,fsdp=1,tensor=1" in capsys.readouterr().out
    before = (out / "metrics.csv").read_text()
    assert run("--resume", steps=STEPS) == 0
    assert "all 6 steps are done already" in capsys.readouterr().out
    assert (out / "metrics.csv").read_text() == before
    assert run("--resume", steps=5) == 2
    assert f"--steps 5: {out} is at step 6, expected at least 6" in capsys.readouterr().err
    assert (out / "metrics.csv").read_text() == before


def test_resume_without_a_run(run, out, training_run, capsys):
    """For a script that a scheduler may run again: it can always give --resume."""
    assert run("--resume") == 0
    assert f"{out}: no run to resume, starting a new one" in capsys.readouterr().out
    assert_same_run(out, training_run, STEPS)


def test_killed_before_the_first_checkpoint(run, out, training_run, capsys):
    """The folder then has unfinished files."""
    out.mkdir()
    (out / ".run.json.17.partial").write_text('{"form')
    assert run(steps=1) == 0  # killed before run.json was written: starts without --resume
    for name in ("checkpoints", "backward"):
        os.rename(out / name, out.with_name(name))
    with (out / "metrics.csv").open("a") as file:
        file.write("2,0.1234,0.5,0.5\n3,0.1")
    (out / ".backward.17.partial").mkdir()
    (out / ".backward.17.partial" / "data").write_text("?")
    (out / ".backward.17.old").mkdir()
    before = (out / "metrics.csv").read_text()
    assert run("--resume") == 0
    assert "no checkpoint was saved yet: starting again from step 1" in capsys.readouterr().out
    assert (out / "metrics-1.csv").read_text() == before
    assert_same_run(out, training_run, STEPS)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopped_by_a_signal(run, out, training_run, capsys, monkeypatch, number, status):
    """A signal while the metrics of step 3 are written, when step 4 already runs: step 4 is the last."""
    add = Metrics.add

    def add_and_signal(self, row):
        add(self, row)
        if row.step == 3:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "add", add_and_signal)
        assert run() == status
    captured = capsys.readouterr()
    done = len(losses(out))
    assert 3 <= done <= 5
    assert f"stopped after step {done} of 6, which is saved: --resume continues" in captured.out
    assert f"wrote {out / 'backward'} after step {done}" in captured.out
    assert captured.err.endswith("interrupted\n") == (number == signal.SIGINT)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert run("--resume") == 0
    assert_same_run(out, training_run, STEPS)


def test_ctrl_c_twice(run, out, training_run, capsys, monkeypatch):
    """The second Ctrl-C stops without saving; the earlier checkpoint is complete."""
    add = Metrics.add

    def add_and_signal(self, row):
        add(self, row)
        if row.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "add", add_and_signal)
        assert run() == 130
    assert "Ctrl-C again stops at once, without saving" in capsys.readouterr().err
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["2"]
    assert not (out / "backward").exists()
    assert run("--resume") == 0
    assert "resuming after step 2" in capsys.readouterr().out
    assert_same_run(out, training_run, STEPS)


@pytest.mark.heavy
def test_sigterm_to_the_real_command(training_model, training_clips, run, out, training_run, capsys):
    """From a scheduler, at any moment."""
    process = training.start(training.arguments(training_model, training_clips, out, save_every=1, steps=10_000, keep=9999))
    training.wait_for(lambda: training.rows(out) > 1, process)
    process.terminate()
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    done = len(losses(out))
    assert f"stopped after step {done} of 10000, which is saved: --resume continues" in output
    assert (out / "backward").is_dir()
    assert run("--resume", steps=max(done + 1, STEPS), save_every=1, keep=9999) == 0
    rows = (out / "metrics.csv").read_text().splitlines()
    assert rows[: STEPS + 1] == (training_run / "metrics.csv").read_text().splitlines()
    training.assert_same_arrays(training.state(out, STEPS), training.state(training_run, STEPS))


def test_only_temporal_values_and_outputs_change(run, out, last_step, training_model, training_run):
    """Frozen tensors don't change by a bit, nor do the exported biases; only trained tensors have an optimizer state."""
    assert run() == 0
    step = last_step()
    loaded = checkpoint.load(training_model)
    image_encoder, vae = step.encoders
    for name, network in (("unet", step.unet), ("vae", vae), ("image_encoder", image_encoder)):
        before = leaves(getattr(loaded, name))
        for leaf, value in leaves(network).items():
            np.testing.assert_array_equal(value, before[leaf], err_msg=leaf)
    wanted = [name for name in leaves(loaded.unet) if tensor_kind(name) in ("to_v.kernel", "to_out.kernel")]
    assert len(wanted) == 2 * 4  # down, middle, and two in the up block
    state = training.state(training_run, STEPS)
    assert sorted(state) == sorted(
        ["step", "optimizer.1.0.count"]
        + [f"{part}.{name}" for part in ("trained", "optimizer.1.0.mu", "optimizer.1.0.nu") for name in wanted]
    )
    learnt = training.learnt(out)
    biases = [name for name in leaves(loaded.unet) if tensor_kind(name) == "to_out.bias"]
    assert sorted(learnt) == sorted(wanted + biases)
    for name in wanted:
        assert (learnt[name] != 0).mean() > 0.99
        expected = state[f"trained.{name}"] - np.asarray(leaves(loaded.unet)[name])
        # stored as a float16: half a unit of 2^-10, and 2^-25 where that is subnormal
        np.testing.assert_allclose(learnt[name], expected, rtol=2**-11, atol=2**-25)
    for name in biases:
        assert not learnt[name].any()
    assert read_backward_info(out / "backward")["trained"] == ["to_v.kernel", "to_out.kernel", "to_out.bias"]


def test_without_rotation_queries_and_keys_are_trained_too(run, out, training_run):
    assert run("--no-rotation", steps=1) == 0
    assert losses(out)[0] != losses(training_run)[0]
    learnt = training.learnt(out)
    kinds = {tensor_kind(name) for name, value in learnt.items() if value.any()}
    assert kinds == {"to_q.kernel", "to_k.kernel", "to_v.kernel", "to_out.kernel"}
    state = training.state(out, 1)
    assert len([name for name in state if name.startswith("trained.")]) == 4 * 4


def test_learning_and_starting_from_the_result(run, out, last_step, training_model, training_clips, training_run):
    """30 steps on four clips; then, with the random numbers of the first six steps, every loss is at least 1% smaller."""
    assert run("--export-dtype", "float32", "--learning-rate", "2e-3", steps=30, save_every=30) == 0
    other = out.with_name("other")
    first_step = {}
    update = Finetuning.update

    def recording(self, state, batch):
        first_step.setdefault("batch", batch)
        return update(self, state, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "update", recording)
        assert train(training_model, training_clips, other, "--init", out / "backward") == 0
    assert (losses(other) < 0.99 * losses(training_run)).all()
    # the first loss is that of the last state of the other run
    step = last_step()
    state = training.state(out, 30)
    trained = {name: jnp.asarray(state[f"trained.{name}"]) for name in step.abstract_state.trained}
    optimizer = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step.abstract_state.optimizer)
    _, result = update(step, State(jnp.zeros((), jnp.int32), trained, optimizer), first_step["batch"])
    # base plus float32 difference gives the weights to one ulp
    np.testing.assert_allclose(losses(other)[0], result.loss, rtol=1e-6)


def test_the_latent_cache_changes_nothing(run, out, training_run, monkeypatch, capsys):
    cache = out.with_name("cache")
    assert run(cache_latents=cache) == 0
    # the same operations in another order of batches, float32
    np.testing.assert_allclose(losses(out), losses(training_run), rtol=1e-5)

    monkeypatch.setattr(
        "train.batches.cached_batches.frame_encoder", lambda *networks: lambda frames: pytest.fail("encoded again")
    )
    assert run("--resume", cache_latents=cache, steps=8) == 0
    assert len(losses(out)) == 8
