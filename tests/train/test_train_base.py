"""`python -m train.base`: trained networks and outputs of each stage, stop and resume, refused options."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from training import assert_same_arrays, losses, one_line

import svdjax
from svdjax.data.readers import read_clip
from svdjax.data.scan import scan
from svdjax.data.sources import DataSettings
from svdjax.losses.autoencoding import Autoencoding
from svdjax.models.svd import NETWORKS, leaves
from svdjax.sampling.conditioning import to_signed_unit
from train import base
from train.run.result import Result
from train.steps.unet_stage import UNetStage
from train.steps.vae_stage import VAEStage

STEPS = 4
pytestmark = pytest.mark.usefixtures("compile_once")


def train(stage, model, data, out, *others, **options):
    options = {"warmup": 1, "steps": STEPS, **options}
    return base.main([stage, *training.arguments(model, data, out, *others, **options)])


@pytest.fixture(scope="module")
def made(training_model, training_clips, tmp_path_factory):
    """The runs of the three stages, each from the model of the one before."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert train("vae", training_model, training_clips, folder / "vae", validate_every=4, hold_out=1) == 0
        model = folder / "vae" / "model"
        assert train("image-encoder", model, "world", folder / "image-encoder", num_frames=2, stride=7) == 0
        model = folder / "image-encoder" / "model"
        assert train("unet", model, training_clips, folder / "unet", "--no-remat", hold_out=1) == 0
    return folder


BEFORE = {"vae": None, "image-encoder": "vae", "unet": "image-encoder"}  # the stage that each started from


def tensors(path):
    model = svdjax.load(path)
    return {name: {leaf: np.asarray(x) for leaf, x in leaves(getattr(model, name)).items()} for name in NETWORKS}


@pytest.mark.parametrize("stage", base.STAGES)
def test_each_stage_changes_its_own_networks(made, training_model, stage):
    before = tensors(training_model if BEFORE[stage] is None else made / BEFORE[stage] / "model")
    after = tensors(made / stage / "model")
    for name, values in before.items():
        if name not in base.STAGES[stage].networks:
            assert_same_arrays(after[name], values)
            continue
        same = [leaf for leaf, value in values.items() if (after[name][leaf] == value).all()]
        assert all(unused(leaf) for leaf in same), same
    assert len(losses(made / stage)) == STEPS


def test_validation_clip_of_the_vae(made):
    assert [path.name for path in (made / "vae" / "validation").iterdir()] == ["step-000004.webp"]


@pytest.mark.heavy
def test_validation_clip_of_the_unet(made, training_clips, tmp_path):
    options = {"validate_every": 1, "validate_steps": 2, "hold_out": 1, "steps": 1}
    words = ("--no-remat", "--noises", 2)
    model = made / "vae" / "model"
    assert train("unet", model, training_clips, tmp_path / "run", "--freeze-encoder", *words, **options) == 0
    assert len(losses(tmp_path / "run")) == 1
    assert_same_arrays(tensors(tmp_path / "run" / "model")["image_encoder"], tensors(model)["image_encoder"])
    assert [path.name for path in (tmp_path / "run" / "validation").iterdir()] == ["step-000001.webp"]


def unused(leaf):
    """Whether a tensor has no gradient: in cross-attention to a single token, where all attention weights are 1, and in the
    attention after the only resnet of a decoder. Weight decay changes kernels that are not zero, but no biases.
    """
    attention = ".attn2." in leaf or ".norm2." in leaf or leaf.startswith("decoder.mid_block.attentions.")
    return attention or leaf.endswith("bias")


def test_latents_have_unit_variance(made, training_clips):
    model = svdjax.load(made / "vae" / "model")
    data = DataSettings(folder=training_clips, num_frames=3, size=(32, 32))
    clips = np.concatenate([read_clip(s, s.start(i), 3, 1, (32, 32)) for s in scan(data).usable[:3] for i in range(4)])
    mean, logvar = jax.jit(lambda vae, x: vae.encode(to_signed_unit(x)))(model.vae, clips)
    variance = float(jnp.var(mean) + jnp.exp(logvar).mean()) * model.config.vae.scaling_factor**2
    assert 0.9 < variance < 1.1


def test_resumed(made, training_model, training_clips, tmp_path, capsys):
    """A stopped run continues; one with other --steps is refused, because the learning rate depends on them."""
    options = {"validate_every": 4, "hold_out": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.run.loop.Stop.requested", lambda self, step: step == 2)
        assert train("vae", training_model, training_clips, tmp_path / "run", **options) == 0
    assert len(losses(tmp_path / "run")) == 2
    assert train("vae", training_model, training_clips, tmp_path / "run", "--resume", **options) == 0
    assert (tmp_path / "run" / "metrics.csv").read_text() == (made / "vae" / "metrics.csv").read_text()
    assert_same_arrays(training.state(tmp_path / "run", STEPS), training.state(made / "vae", STEPS))
    capsys.readouterr()
    assert train("vae", training_model, training_clips, tmp_path / "run", "--resume", **options, steps=5) == 2
    assert "is of a run with --steps 4, not --steps 5" in one_line(capsys.readouterr().err)


def test_the_advice_after_a_diverged_run(made, training_model, training_clips, tmp_path, capsys, monkeypatch):
    """The weights of the last checkpoint, by the command that the message names; afterwards the run can still continue."""
    out, options = tmp_path / "run", {"validate_every": 4, "hold_out": 1}
    update = VAEStage.update

    def diverged(self, state, batch):
        state, result = update(self, state, batch)
        return state, dataclasses.replace(result, finite=jnp.array(False)) if batch.step == 3 else result

    with monkeypatch.context() as patch:
        patch.setattr(VAEStage, "update", diverged)
        assert train("vae", training_model, training_clips, out, **options) == 2
    advice = re.search("--resume --steps ([0-9]+) exports its weights", one_line(capsys.readouterr().err))
    assert advice is not None
    assert advice[1] == "2"
    (out / "run.json").unlink()
    assert train("vae", training_model, training_clips, out, "--resume", **options | {"steps": int(advice[1])}) == 0
    assert (out / "model" / "config.json").exists()
    assert train("vae", training_model, training_clips, out, "--resume", **options) == 0
    assert (out / "run.json").read_text() == (made / "vae" / "run.json").read_text()
    assert_same_arrays(training.state(out, STEPS), training.state(made / "vae", STEPS))


@pytest.mark.heavy
def test_the_decoder_alone(made, training_clips, tmp_path):
    """On crops, from a trained VAE: its encoder and the scale of the latents don't change."""
    model = made / "vae" / "model"
    options = {"crop": 16, "steps": 2, "hold_out": 1, "num_frames": 2}
    assert train("vae", model, training_clips, tmp_path / "run", "--freeze-encoder", **options) == 0
    before, after = svdjax.load(model), svdjax.load(tmp_path / "run" / "model")
    assert after.config.vae.scaling_factor == before.config.vae.scaling_factor
    assert after.config.unet == before.config.unet  # the VAE's clips don't change it
    for name, value in leaves(before.vae).items():
        same = bool((leaves(after.vae)[name] == value).all())
        assert same is not name.startswith("decoder.") or unused(name), name


@pytest.mark.heavy
def test_the_latent_cache_changes_nothing(made, training_clips, tmp_path, monkeypatch):
    """With clips of a folder, and with a limited number of the world's. A run of another UNet finds the cache."""
    seen = []

    def only_examples(self, state, batch):  # without the update, which takes a minute to compile
        seen.append(jax.device_get(self.examples(batch)))
        one, each = jnp.ones(()), jnp.ones(self.batch_size)
        result = Result(loss=one, losses=each, sigma=each, gradient_norm=one, finite=one > 0)
        return dataclasses.replace(state, step=state.step + 1), result

    def examples(model, data, name, **options):
        seen.clear()
        words = ("--freeze-encoder", "--no-remat")
        assert train("unet", model, data, tmp_path / name, *words, steps=2, batch_size=2, **options) == 0
        return jax.tree.map(lambda *steps: np.stack(steps), *seen)

    def assert_same(found, expected):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)

    monkeypatch.setattr(UNetStage, "update", only_examples)
    model, cache = made / "image-encoder" / "model", tmp_path / "cache"
    plain = examples(model, training_clips, "plain")
    assert_same(examples(model, training_clips, "cached", cache_latents=cache), plain)
    of_world = examples(model, "world", "world", clips=3)
    assert_same(examples(model, "world", "cached world", clips=3, cache_latents=cache), of_world)
    assert len(list(cache.iterdir())) == 4 + 1
    monkeypatch.setattr("train.batches.cached_batches.frame_encoder", lambda *networks: pytest.fail("encoded again"))
    assert_same(examples(tmp_path / "cached" / "model", training_clips, "another", cache_latents=cache), plain)


def test_the_weights_reach_the_loss(training_model, training_clips, tmp_path, monkeypatch):
    class Captured(Exception):
        pass

    def capture(run):
        raise Captured(run.settings)

    monkeypatch.setattr(base, "build", capture)
    with pytest.raises(Captured) as captured:
        train("vae", training_model, training_clips, tmp_path / "run", divergence=0.5, equivariance=0.25)
    assert captured.value.args[0].autoencoding == Autoencoding(divergence=0.5, equivariance=0.25)
