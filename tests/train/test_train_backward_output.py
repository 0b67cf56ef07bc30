"""Output of `train.backward`: weights for sampling and for PyTorch, validation clips, loss curve, TensorBoard."""

import shutil
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import media
import numpy as np
import pytest
import torch
import training
import videos
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from PIL import Image
from training import assert_same_run, losses, train

import convert.flax_to_svd
import sample.interpolate
from svdjax.checkpoints import checkpoint
from svdjax.models.svd import NETWORKS, backward_unet, leaves
from svdjax.parallel.mesh import make_mesh
from train import backward
from train.run import loss_curve
from train.run.metrics import StepMetrics
from train.steps.finetuning import Finetuning

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def learnt(training_model, training_clips, training_run, tmp_path_factory):
    """A run that validates twice, long enough for a visible effect."""
    out = tmp_path_factory.mktemp("runs") / "validated"
    options = {"validate_every": 20, "validate_steps": 2, "steps": 40, "save_every": 40, "export_dtype": "float32"}
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert train(training_model, training_clips, out, **options) == 0
    return out


def test_interpolation(learnt, training_model, training_run, tmp_path):
    keyframes = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(keyframes):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    clips = []
    for run in (learnt, training_run):
        words = [*keyframes, "--model", training_model, "--backward", run / "backward", "-o", tmp_path / run.name]
        assert sample.interpolate.main([*map(str, words), "--size", "32x32", "--steps", "2"]) == 0
        clips.append(media.read_clip(tmp_path / run.name)[0].astype(int))
    assert clips[0].shape == (3, 32, 32, 3)
    assert (clips[0] != clips[1]).any()


def test_pytorch_gives_the_same_output(learnt, training_model, tmp_path):
    """diffusers' UNet after `convert.flax_to_svd` against our UNet with the backward tensors."""
    words = [training_model, tmp_path / "unet", "--backward", learnt / "backward"]
    assert convert.flax_to_svd.main([str(word) for word in words]) == 0
    theirs = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "unet")
    rng = np.random.default_rng(0)
    x, embeds = rng.standard_normal((1, 3, 4, 4, 8), np.float32), rng.standard_normal((1, 1, 48), np.float32)
    ids = np.array([[6, 127, 0.02]], np.float32)
    with torch.no_grad():
        args = (torch.from_numpy(x.transpose(0, 1, 4, 2, 3)), 0.5, torch.from_numpy(embeds), torch.from_numpy(ids))
        expected = theirs(*args).sample.numpy().transpose(0, 1, 3, 4, 2)
    model = checkpoint.load(training_model, backward=learnt / "backward")
    assert model.backward is not None

    def distance(params):
        ours = backward_unet(model.unet, params)(jnp.asarray(x), jnp.full(1, 0.5), jnp.asarray(embeds), jnp.asarray(ids))
        return np.linalg.norm(np.asarray(ours) - expected) / np.linalg.norm(expected)

    assert distance(model.backward) < 1e-5  # float32
    assert distance({}) > 1e-4


def test_validation_clips(learnt, training_clips, training_run):
    """The held-out clip above the clip generated between its ends."""
    names = sorted(path.name for path in (learnt / "validation").iterdir())
    assert names == ["step-000020.webp", "step-000040.webp"]
    clips = []
    for name in names:
        frames, _ = media.read_clip(learnt / "validation" / name)
        assert frames.shape[0] == 3
        assert frames.shape[2] == 32
        truth = frames[:, :32]
        source, _ = media.read_clip(training_clips / "c3.gif")
        expected = [np.asarray(Image.fromarray(f).resize((32, 32))) for f in source[:3]]
        assert media.psnr(truth, np.stack(expected)) > 20  # lossy, and another filter
        clips.append(frames[:, -32:])
    assert (clips[0] != clips[1]).any()
    assert "c3.gif" in (learnt / "data.csv").read_text().split("held out")[0].splitlines()[-1]


def test_loss_curve(training_run, tmp_path):
    with Image.open(training_run / "loss.png") as image:
        assert image.size == (880, 495)
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(-1, 1, 300))
    np.testing.assert_allclose(loss_curve.running_mean(values, 15)[200], values[186:201].mean(), rtol=1e-12)
    np.testing.assert_allclose(loss_curve.running_mean(values, 15)[3], values[:4].mean(), rtol=1e-12)
    loss_curve.draw([StepMetrics(i + 1, v, 1, 1) for i, v in enumerate(values)], tmp_path / "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_tensorboard(training_run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(training_run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "gradient_norm", "sigma", "clips_per_second"}
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == list(range(1, 7))
    np.testing.assert_allclose([event.value for event in scalars], losses(training_run), rtol=1e-7)


def test_tensorboard_after_a_resume_shows_no_step_twice(training_model, training_clips, training_run, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    shutil.copytree(training_run, out)
    shutil.rmtree(out / "checkpoints" / "6")
    assert train(training_model, training_clips, out, "--resume") == 0
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 7))


def test_without_tensorboard(training_model, training_clips, training_run, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert train(training_model, training_clips, tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", training_run, 6)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_too_few_videos_to_validate(training_model, tmp_path, capsys):
    videos.write_gif(tmp_path / "data" / "a.gif", videos.coded_frames(4))
    assert train(training_model, tmp_path / "data", tmp_path / "run", validate_every=1) == 2
    assert "--hold-out 1: " in training.one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_validation_of_several_processes_takes_the_encoders_from_host_memory(training_model, monkeypatch):
    """Under a plan each process makes the clip on its own device, which arrays of all processes can't be moved to."""

    class Captured(Exception):
        pass

    def capture(model, *args, **options):
        raise Captured(model)

    model = checkpoint.load(training_model)
    step = Finetuning.__new__(Finetuning)
    step.mesh, step.config, step.frozen = make_mesh("data=1"), model.config, (model.unet, {})
    options: Any = SimpleNamespace(no_rotation=False, validate_steps=1, seed=0)
    state: Any = SimpleNamespace(trained={})
    plan: Any = SimpleNamespace(decode=None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(backward.generation, "sample_pair", capture)
    truth = np.zeros((3, 32, 32, 3), np.uint8)
    with pytest.raises(Captured) as captured:
        backward.generate_between(options, step, (model.image_encoder, model.vae), plan, state, truth)
    given = captured.value.args[0]
    for name in NETWORKS:
        before = leaves(getattr(model, name) if name != "unet" else step.unet)
        for leaf, value in leaves(getattr(given, name)).items():
            assert isinstance(value, np.ndarray), leaf
            np.testing.assert_array_equal(value, before[leaf])
