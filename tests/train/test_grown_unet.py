"""`train.base unet --model M --preset P`: a grown UNet starts with the smaller one's outputs; other presets are refused."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training
from training import one_line

import svdjax
from svdjax.checkpoints import checkpoint
from svdjax.errors import InputError
from svdjax.models import initialize
from svdjax.models.svd import NETWORKS, fill, leaves
from svdjax.models.unet import UNet
from svdjax.presets import PRESETS
from train import base
from train.steps import starting_weights

ATTENTION = ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")
NONE = ("DownBlockSpatioTemporal", "UpBlockSpatioTemporal")


@pytest.fixture(scope="module")
def small(training_model, tmp_path_factory):
    """A checkpoint with random weights, its UNet of two levels without attention, and the tensors of its networks."""
    model = svdjax.load(training_model, dtype="float32")
    unet = dataclasses.replace(
        model.config.unet,
        block_out_channels=(32, 32),
        down_block_types=(NONE[0],) * 2,
        up_block_types=(NONE[1],) * 2,
        num_attention_heads=(2, 2),
        layers_per_block=1,
        transformer_layers_per_block=1,
        cross_attention_dim=model.config.unet.cross_attention_dim[:1] * 2,
    )
    networks = {name: leaves(getattr(model, name)) for name in NETWORKS}
    networks["unet"] = leaves(initialize.random(UNet, unet, jnp.float32, seed=5))
    folder = tmp_path_factory.mktemp("small") / "model"
    checkpoint.save(folder, dataclasses.replace(model.config, unet=unet), networks)
    return folder, unet, networks


@pytest.fixture
def grow(small, training_clips, tmp_path, monkeypatch):
    """Run the command on the shapes of a UNet; returns its configuration and starting tensors, or the exit status."""

    class Captured(Exception):
        pass

    def capture(run):
        raise Captured(run.config, run.starting_tensors("unet"))

    def run(**shapes):
        preset = dataclasses.replace(checkpoint.read_info(small[0]).config, unet=dataclasses.replace(small[1], **shapes))
        monkeypatch.setitem(starting_weights.PRESETS, "tiny", preset)
        monkeypatch.setattr(base, "build", capture)
        words = ("--preset", "tiny", "--freeze-encoder", "--no-remat")
        words = ["unet", *training.arguments(small[0], training_clips, tmp_path / "run", *words)]
        try:
            return base.main(words)
        except Captured as captured:
            return captured.args

    return run


def test_same_outputs_as_the_smaller_one(grow, small):
    _, unet, networks = small
    shapes = {"down_block_types": (ATTENTION[0], NONE[0]), "up_block_types": (NONE[1], ATTENTION[1])}
    config, tensors = grow(**shapes, num_attention_heads=(4, 2))  # new attention may have any number of heads
    new = set(tensors) - set(networks["unet"])
    assert not set(networks["unet"]) - set(tensors)
    assert {name.split(".attentions")[0] for name in new} == {"down_blocks.0", "up_blocks.1"}
    grown = fill(initialize.abstract(UNet, config.unet, jnp.float32), tensors)
    same = fill(initialize.abstract(UNet, unet, jnp.float32), networks["unet"])
    rng = np.random.default_rng(0)
    side = 8
    inputs = (
        rng.standard_normal((1, unet.num_frames, side, side, unet.in_channels), np.float32),
        np.float32([0.3]),
        rng.standard_normal((1, 1, unet.cross_attention_dim[0]), np.float32),
        np.float32([[7, 127, 0.02]]),
    )
    run = jax.jit(lambda network, arguments: network(*arguments))
    expected = run(same, inputs)
    assert np.abs(expected).mean() > 0.01
    np.testing.assert_allclose(run(grown, inputs), expected, rtol=1e-4, atol=1e-4)  # another order of the same operations


REFUSED = {
    "wider": (
        {"block_out_channels": (32, 64)},
        "block_out_channels of its UNet is (32, 32), of --preset tiny (32, 64), expected the same",
    ),
    "more layers": ({"layers_per_block": 2}, "layers_per_block of its UNet is (1, 1), of --preset tiny (2, 2)"),
    "other heads": ({"num_attention_heads": (2, 4)}, "level 1 of its UNet has 2 heads, that of --preset tiny 4"),
}


@pytest.mark.parametrize(("shapes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(grow, small, tmp_path, capsys, shapes, message):
    assert grow(**shapes) == 2
    error = one_line(capsys.readouterr().err)
    assert message in error
    assert str(small[0]) in error
    assert not (tmp_path / "run").exists()


def test_the_presets_grow():
    """The embedded model was trained so."""
    assert starting_weights.grown(PRESETS["tiny-light"], "tiny", Path("model")) == PRESETS["tiny"]


def test_less_attention_is_refused(small, monkeypatch):
    config = checkpoint.read_info(small[0]).config
    monkeypatch.setitem(starting_weights.PRESETS, "tiny", config)
    more = dataclasses.replace(config, unet=dataclasses.replace(small[1], up_block_types=(NONE[1], ATTENTION[1])))
    with pytest.raises(InputError, match="its UNet has CrossAttnUpBlockSpatioTemporal, --preset tiny has UpBlock"):
        starting_weights.grown(more, "tiny", small[0])
