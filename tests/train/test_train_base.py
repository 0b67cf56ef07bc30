"""`python -m train.base`: what each stage trains and writes, stopping and going on, what it refuses."""

import dataclasses
import functools

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
from train.run.loop import Result
from train.steps.pretraining import STAGES, Pretraining

STEPS = 4
pytestmark = pytest.mark.usefixtures("compile_once")


def train(stage, model, data, out, *others, **options):
    options = {"warmup": 1, "steps": STEPS, **options}
    return base.main([stage, *training.arguments(model, data, out, *others, **options)])


@pytest.fixture(scope="module")
def made(training_model, training_clips, tmp_path_factory):
    """The stages, each from the one's before it: folders of their runs."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        training.compile_once(patch)
        assert train("vae", training_model, training_clips, folder / "vae", validate_every=4, hold_out=1) == 0
        model = folder / "vae" / "model"
        assert train("image-encoder", model, "world", folder / "image-encoder", num_frames=2, stride=7) == 0
        model = folder / "image-encoder" / "model"
        assert train("unet", model, training_clips, folder / "unet", "--no-remat", hold_out=1) == 0
    return folder


BEFORE = {"vae": None, "image-encoder": "vae", "unet": "image-encoder"}  # whose model each stage began with


def tensors(path):
    model = svdjax.load(path)
    return {name: {leaf: np.asarray(x) for leaf, x in leaves(getattr(model, name)).items()} for name in NETWORKS}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_changes_its_own_networks(made, training_model, stage):
    before = tensors(training_model if BEFORE[stage] is None else made / BEFORE[stage] / "model")
    after = tensors(made / stage / "model")
    for name, values in before.items():
        if name not in STAGES[stage]:
            assert_same_arrays(after[name], values)
            continue
        same = [leaf for leaf, value in values.items() if (after[name][leaf] == value).all()]
        assert all(used_nowhere(leaf) for leaf in same), same
    assert len(losses(made / stage)) == STEPS


def test_a_picture_of_the_reconstruction(made):
    assert [path.name for path in (made / "vae" / "validation").iterdir()] == ["step-000004.webp"]


@pytest.mark.heavy
def test_a_picture_of_what_is_made_from_a_first_frame(made, training_clips, tmp_path):
    options = {"validate_every": 1, "validate_steps": 2, "hold_out": 1, "steps": 1}
    words = ("--no-remat", "--noises", 2)
    model = made / "vae" / "model"
    assert train("unet", model, training_clips, tmp_path / "run", "--freeze-encoder", *words, **options) == 0
    assert len(losses(tmp_path / "run")) == 1
    assert_same_arrays(tensors(tmp_path / "run" / "model")["image_encoder"], tensors(model)["image_encoder"])
    assert [path.name for path in (tmp_path / "run" / "validation").iterdir()] == ["step-000001.webp"]


def used_nowhere(leaf):
    """Of cross-attention to a single token, whose weights are all 1, and of the attention behind a decoder's only resnet.

    Weight decay alone could change them, but not zeros, and of kernels alone.
    """
    attention = ".attn2." in leaf or ".norm2." in leaf or leaf.startswith("decoder.mid_block.attentions.")
    return attention or leaf.endswith("bias")


def test_latents_have_unit_variance(made, training_clips):
    model = svdjax.load(made / "vae" / "model")
    data = DataSettings(training_clips, 3, (32, 32))
    clips = np.concatenate([read_clip(s, s.start(i), 3, 1, (32, 32)) for s in scan(data).usable[:3] for i in range(4)])
    mean, logvar = jax.jit(lambda vae, x: vae.encode(to_signed_unit(x)))(model.vae, clips)
    variance = float(jnp.var(mean) + jnp.exp(logvar).mean()) * model.config.vae.scaling_factor**2
    assert 0.9 < variance < 1.1


def test_resumed(made, training_model, training_clips, tmp_path, capsys):
    """A run that was stopped, and a longer one: the rate falls with the steps, so that one is another run."""
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


@pytest.mark.heavy
def test_the_decoder_alone(made, training_clips, tmp_path):
    """On crops, from a VAE that is there: its encoder and the latents' scale stay."""
    model = made / "vae" / "model"
    options = {"crop": 16, "steps": 2, "hold_out": 1, "num_frames": 2}
    assert train("vae", model, training_clips, tmp_path / "run", "--freeze-encoder", **options) == 0
    before, after = svdjax.load(model), svdjax.load(tmp_path / "run" / "model")
    assert after.config.vae.scaling_factor == before.config.vae.scaling_factor
    assert after.config.unet == before.config.unet  # of which the VAE's clips say nothing
    for name, value in leaves(before.vae).items():
        same = bool((leaves(after.vae)[name] == value).all())
        assert same is not name.startswith("decoder.") or used_nowhere(name), name


def test_the_latent_cache_changes_nothing(made, training_clips, tmp_path, monkeypatch):
    """Of a folder's clips; and of the world's, of which there must be an end. Another UNet finds what is there."""
    seen = []

    def only_examples(self, state, batch):  # what steps learn from, without learning, whose program takes a minute to make
        seen.append(jax.device_get(self.examples(batch)))
        one, each = jnp.ones(()), jnp.ones(self.batch_size)
        return dataclasses.replace(state, step=state.step + 1), Result(one, each, each, one, one > 0)

    def examples(model, data, name, **options):
        seen.clear()
        words = ("--freeze-encoder", "--no-remat")
        assert train("unet", model, data, tmp_path / name, *words, steps=2, batch_size=2, **options) == 0
        return jax.tree.map(lambda *steps: np.stack(steps), *seen)

    def assert_same(found, expected):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)

    monkeypatch.setattr(Pretraining, "update", only_examples)
    model, cache = made / "image-encoder" / "model", tmp_path / "cache"
    plain = examples(model, training_clips, "plain")
    assert_same(examples(model, training_clips, "cached", cache_latents=cache), plain)
    of_world = examples(model, "world", "world", clips=3)
    assert_same(examples(model, "world", "cached world", clips=3, cache_latents=cache), of_world)
    assert len(list(cache.iterdir())) == 4 + 1
    monkeypatch.setattr("train.batches.cached_batches.frame_encoder", lambda *networks: pytest.fail("encoded again"))
    assert_same(examples(tmp_path / "cached" / "model", training_clips, "another", cache_latents=cache), plain)


def test_the_weights_reach_the_loss(training_model, training_clips, tmp_path, monkeypatch):
    class Made(Exception):
        pass

    def capture(stage, config, start, frozen, mesh, how, dtype):
        raise Made(how)

    monkeypatch.setattr(base, "Pretraining", capture)
    with pytest.raises(Made) as made:
        train("vae", training_model, training_clips, tmp_path / "run", divergence=0.5, equivariance=0.25)
    assert made.value.args[0].autoencoding == Autoencoding(divergence=0.5, equivariance=0.25)


REFUSED = {
    "no VAE": (["unet", "--data", "world"], "unet without --model: "),
    "two beginnings": (["vae", "--data", "world", "--model", "m", "--preset", "tiny"], "--model and --preset with vae both"),
    "a stage that is none": (["decoder", "--data", "world"], "argument stage: invalid choice"),
    "dropout": (["vae", "--data", "world", "--dropout", "1"], "--dropout is 1.0, expected at least 0 and less than 1"),
    "sigma": (["vae", "--data", "world", "--log-sigma", "0", "0"], "--log-sigma is 0 0, expected a number and a positive one"),
    "warm-up": (["vae", "--data", "world", "--warmup", "-1"], "--warmup is -1, expected at least 0"),
    "too long": (["vae", "--data", "world", "--num-frames", "9"], "--num-frames 9 at --stride 1 takes 9 frames"),
    "a divergence": (["vae", "--data", "world", "--divergence", "-1"], "--divergence is -1, expected at least 0"),
    "a divergence of another stage": (
        ["unet", "--data", "world", "--model", "MODEL", "--divergence", "1"],
        "--divergence with unet: expected it with vae, which alone has a use for it",
    ),
    "an equivariance": (["vae", "--data", "world", "--equivariance", "2"], "--equivariance is 2, expected 0 to 1"),
    "a crop of another stage": (["unet", "--data", "world", "--model", "MODEL", "--crop", "16"], "--crop 16 with unet"),
    "a crop of no latents": (["vae", "--data", "world", "--crop", "18"], "--crop is 18, expected a multiple of 4 from 8 to"),
    "a crop beyond the clips": (["vae", "--data", "world", "--crop", "72"], "from 8 to the clips' 64"),
    "no noises": (["unet", "--data", "world", "--noises", "0"], "--noises is 0, expected at least 1"),
    "noises of another stage": (["vae", "--data", "world", "--noises", "4"], "--noises with vae: expected it with unet"),
    "a cache of what is trained": (
        ["unet", "--data", "world", "--clips", "9", "--model", "MODEL", "--cache-latents", "cache"],
        "--cache-latents: expected it with unet and --freeze-encoder",
    ),
    "clips of a folder": (["vae", "--data", "clips", "--clips", "9"], "--clips 9 with --data clips: expected it with world"),
    "more clips than there are": (["vae", "--data", "world", "--clips", "2000000"], "--clips is 2000000, expected at most"),
    "activations of another stage": (["vae", "--data", "world", "--no-remat"], "--no-remat with vae: expected it with unet"),
    "a folder of the world's name": (["vae", "--data", "./world"], "world: no such folder"),
    "nothing to freeze": (
        ["vae", "--data", "world", "--freeze-encoder"],
        "--freeze-encoder: expected it with vae or unet and --model",
    ),
    "nothing known": (["image-encoder", "--data", "clips", "--model", "MODEL"], "with image-encoder: expected world"),
    "pictures of facts": (
        ["image-encoder", "--data", "world", "--model", "MODEL", "--validate-every", "2"],
        "--validate-every with image-encoder, which makes no pictures",
    ),
    "noises of facts": (
        ["image-encoder", "--data", "world", "--model", "MODEL", "--noises", "2"],
        "--noises with image-encoder:",
    ),
    "a frozen encoder that is trained": (
        ["image-encoder", "--data", "world", "--model", "MODEL", "--freeze-encoder"],
        "--freeze-encoder: expected it with vae or unet and --model",
    ),
    "size": (["vae", "--data", "world", "--size", "60x60"], "60x60"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(words, said, tmp_path, capsys, training_model):
    words = [str(training_model) if word == "MODEL" else word for word in words]
    assert base.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert said in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_no_cache_of_a_million_clips(training_model, tmp_path, capsys):
    words = training.arguments(training_model, "world", tmp_path / "run", cache_latents=tmp_path / "cache")
    assert training.backward.main(words) == 2
    assert "--cache-latents with --data world: a million clips, expected --clips N" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
