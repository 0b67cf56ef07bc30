"""Methods of `interpolate`: weights and maps of the backward half."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import training
from PIL import Image

import svdjax
from sample import interpolate
from svdjax.media import video
from svdjax.models.backward import EVERYWHERE, NOWHERE, QUERIES, UP_BLOCKS, VALUES
from svdjax.sampling import generation, methods
from svdjax.sampling.methods import METHODS
from svdjax.sampling.settings import Settings

IMAGE = np.zeros((1, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def loaded(model):
    return svdjax.load(model)


def sampler_arguments(monkeypatch, model, method, **settings):
    """Number of directions and backward half that the sampler is called with."""
    calls = []
    monkeypatch.setattr(generation, "sample", lambda unet, conditioning, *args, **kw: calls.append((conditioning, kw)))
    generation.sample_pair(model, IMAGE, IMAGE + 255, Settings(num_frames=3, steps=2, **settings), method=method)
    ((conditioning, options),) = calls
    return conditioning.image_embeds.shape[0], options["backward"]


@pytest.mark.parametrize(("method", "maps"), [("dual", EVERYWHERE), ("trf", NOWHERE), ("no-finetune", UP_BLOCKS)])
def test_weights_and_maps(monkeypatch, loaded, method, maps):
    directions, backward = sampler_arguments(monkeypatch, loaded, method)
    assert directions == 2
    assert backward.maps_from_forward == maps
    assert backward.params == (loaded.backward if method == "dual" else {})


def test_without_rotation(monkeypatch, loaded):
    tuned = loaded.backward | {name.replace("to_v", kind[:4]): x for name, x in loaded.backward.items() for kind in QUERIES}
    directions, backward = sampler_arguments(monkeypatch, dataclasses.replace(loaded, backward=tuned), "no-rotation")
    assert (directions, backward.params, backward.maps_from_forward) == (2, tuned, NOWHERE)


def test_forward_only(monkeypatch, loaded):
    directions, backward = sampler_arguments(monkeypatch, loaded, "forward")
    assert (directions, backward) == (1, None)


@pytest.mark.parametrize("method", METHODS)
def test_which_weights_are_needed(method):
    """No weights, the paper's, or those trained without rotated maps."""
    accepted = {"dual": [False, True, False], "no-rotation": [False, False, True]}.get(method, [True] * 3)
    for names, valid in zip([None, VALUES, VALUES + QUERIES], accepted, strict=True):
        if valid:
            methods.check_backward_weights(method, names)
        else:
            with pytest.raises(svdjax.InputError, match=f"method {method}: "):
                methods.check_backward_weights(method, names)
    with pytest.raises(svdjax.InputError, match=r"method 'x': unknown, expected one of dual, trf"):
        methods.check_backward_weights("x", None)


def test_command(model, training_model, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.fromarray(IMAGE[0]).save(image)

    def run(folder, *words):
        words = [image, image, "--model", folder, "--size", "16x16", "--num-frames", "3", "--steps", "1", *words]
        return interpolate.main([*map(str, words), "-o", str(tmp_path / "out")])

    assert run(model, "--method", "no-rotation") == 2
    line = training.one_line(capsys.readouterr().err)
    assert line.startswith(f"error: {model}: method no-rotation: the backward weights were trained with rotated maps")
    assert run(training_model, "--method", "dual") == 2
    assert "method dual: the model has no backward weights" in training.one_line(capsys.readouterr().err)
    assert not os.path.exists(tmp_path / "out")
    assert run(training_model) == 0
    assert "no backward weights: method vibid with prefix mpd" in capsys.readouterr().out
    assert video.read_metadata(tmp_path / "out")["backward"] == "not used"
    shutil.rmtree(tmp_path / "out")
    assert run(model, "--method", "forward") == 0
    assert len(os.listdir(tmp_path / "out")) == 3
