"""Refused options of `train.base`: one line, and nothing is written."""

import pytest
import training
from training import one_line

from train import base

WORLD = ("--data", "world")
MODEL = ("--model", "MODEL")  # replaced by a checkpoint

REFUSED = {
    "no VAE": (["unet", *WORLD], "unet without --model: expected a checkpoint with a trained VAE"),
    "two starts": (["vae", *WORLD, "--model", "m", "--preset", "tiny"], "--model and --preset with vae: both set"),
    "unknown stage": (["decoder", *WORLD], "argument stage: invalid choice"),
    "dropout": (["vae", *WORLD, "--dropout", "1"], "--dropout is 1.0, expected at least 0 and less than 1"),
    "sigma": (["vae", *WORLD, "--log-sigma", "0", "0"], "--log-sigma is 0 0, expected a number and a positive number"),
    "warmup": (["vae", *WORLD, "--warmup", "-1"], "--warmup is -1, expected at least 0"),
    "clips too long": (["vae", *WORLD, "--num-frames", "9"], "--num-frames 9 at --stride 1 takes 9 frames"),
    "divergence": (["vae", *WORLD, "--divergence", "-1"], "--divergence is -1, expected at least 0"),
    "equivariance": (["vae", *WORLD, "--equivariance", "2"], "--equivariance is 2, expected 0 to 1"),
    "crop not a multiple": (["vae", *WORLD, "--crop", "18"], "--crop is 18, expected a multiple of 4 from 8 to"),
    "crop too large": (["vae", *WORLD, "--crop", "72"], "from 8 to 64, the shorter side"),
    "noises": (["unet", *WORLD, "--noises", "0"], "--noises is 0, expected at least 1"),
    "size": (["vae", *WORLD, "--size", "60x60"], "60x60"),
    "divergence of another stage": (
        ["unet", *WORLD, *MODEL, "--divergence", "1"],
        "--divergence with unet: expected it with vae, the only stage that uses it",
    ),
    "crop of another stage": (["unet", *WORLD, *MODEL, "--crop", "16"], "--crop with unet: expected it with vae"),
    "noises of another stage": (["vae", *WORLD, "--noises", "4"], "--noises with vae: expected it with unet"),
    "noises with facts": (["image-encoder", *WORLD, *MODEL, "--noises", "2"], "--noises with image-encoder:"),
    "remat of another stage": (["vae", *WORLD, "--no-remat"], "--no-remat with vae: expected it with unet"),
    "cache of a trained encoder": (
        ["unet", *WORLD, "--clips", "9", *MODEL, "--cache-latents", "cache"],
        "--cache-latents: expected it with unet and --freeze-encoder",
    ),
    "clips of a folder": (
        ["vae", "--data", "clips", "--clips", "9"],
        "--clips 9 with --data clips: expected it with --data world",
    ),
    "too many clips": (["vae", *WORLD, "--clips", "2000000"], "--clips is 2000000, expected at most"),
    "folder named world": (["vae", "--data", "./world"], "world: no such folder"),
    "no encoder to freeze": (["vae", *WORLD, "--freeze-encoder"], "--freeze-encoder without --model: expected a checkpoint"),
    "no facts": (["image-encoder", "--data", "clips", *MODEL], "with image-encoder: expected world"),
    "validation of facts": (
        ["image-encoder", *WORLD, *MODEL, "--validate-every", "2"],
        "--validate-every with image-encoder, which generates no clips",
    ),
    "frozen encoder that is trained": (
        ["image-encoder", *WORLD, *MODEL, "--freeze-encoder"],
        "--freeze-encoder with image-encoder: expected it with vae or unet",
    ),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(words, message, tmp_path, capsys, training_model):
    words = [str(training_model) if word == "MODEL" else word for word in words]
    assert base.main([*words, "--out", str(tmp_path / "run")]) == 2
    assert message in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_no_cache_of_a_million_clips(training_model, tmp_path, capsys):
    words = training.arguments(training_model, "world", tmp_path / "run", cache_latents=tmp_path / "cache")
    assert training.backward.main(words) == 2
    assert "--cache-latents with --data world: it has a million clips, expected --clips N" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
