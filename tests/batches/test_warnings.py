"""Warnings of keyframes that have too little in common."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import svdjax
from sample.batches import clip
from svdjax import chain, pipeline
from svdjax.chain import Clip
from svdjax.sampling.prediction import Guide, disagreement
from svdjax.world.drawing import render
from svdjax.world.scene import scene

FRAMES = np.zeros((1, 3, 4, 4, 3), np.uint8)


def request(count: int, **changes):
    path = SimpleNamespace(name="out.mp4")
    fields = {
        "keyframes": [np.zeros((4, 4, 3), np.uint8)] * count,
        "settings": svdjax.Settings(num_frames=3),
        "method": "dual",
        "noise": object(),
        "output": SimpleNamespace(path=path),
        "loop": False,
    } | dict.fromkeys(("decode_chunk", "keep_keyframes", "factor"))
    return SimpleNamespace(**fields | changes)


@pytest.fixture
def apart(monkeypatch):
    """The largest disagreement of each clip that is made, (b,), to be filled in."""
    values = []

    def interpolate_pairs(*_, **__):
        for largest in values:
            size = len(largest)
            yield Clip(np.zeros((size, 3, 2, 2, 4)), FRAMES.repeat(size, 0), np.stack([np.full(size, 0.2), largest]))

    monkeypatch.setattr(chain, "interpolate_pairs", interpolate_pairs)
    return values


def test_a_loop(apart):
    apart += [np.array([0.99]), np.array([1.25]), np.array([2.0])]
    lines = []
    clip.generate(request(3, loop=True), None, None, None, warn=lines.append)
    assert lines == [
        f"warning: out.mp4: keyframes {pair} may have too little in common: the two directions differ by {apart} times their "
        "mean, above 1.0; expect a fade instead of motion"
        for pair, apart in (("2 and 3", "1.25"), ("3 and 1", "2.00"))
    ]


def test_directions_that_were_not_trained_always_disagree(apart, capsys):
    apart.append(np.array([2.0]))
    clip.generate(request(2, method="trf"), None, None, None)
    assert not capsys.readouterr().out


def test_pairs_sampled_together(apart, capsys, monkeypatch):
    monkeypatch.setattr(clip, "joined", lambda draws: None)
    monkeypatch.setattr(clip, "latent_shape", lambda *_: None)
    apart.append(np.array([0.5, 1.5, 1.5]))  # the last fills up the batch
    two = [request(2), request(2, output=SimpleNamespace(path=SimpleNamespace(name="b.gif")))]
    clip.generate_together(two, 3, SimpleNamespace(config=None), None, None)
    assert capsys.readouterr().out.startswith("warning: b.gif: the keyframes may")


def test_no_disagreement_was_observed():
    assert not Clip(np.zeros((2, 3, 2, 2, 4)), FRAMES.repeat(2, 0)).too_different().any()
    one_direction = Clip(np.zeros((2, 3, 2, 2, 4)), FRAMES.repeat(2, 0), np.zeros((0, 2)))
    assert not one_direction.too_different().any()


@pytest.mark.heavy
def test_the_embedded_world():
    """Keyframes of two clips are noticed, those of one clip are not."""
    model = svdjax.load("embedded")
    clips = [render(scene("test", number)) for number in range(9)]
    first, last = (np.stack([clip[k] for clip in clips]) for k in (0, -1))
    settings = pipeline.settings_for(model)
    for ends, expected in ((last[:-1], False), (last[1:], True)):
        (made,) = chain.interpolate_pairs(model, [first[:-1], ends], settings)
        assert ((made.too_different() > 0) == expected).all(), made.disagreement.max(0)


def test_frames_count_as_far_as_both_directions_do():
    """Not at the ends with linear fusion; fully with the average."""
    v = np.zeros((2, 1, 1, 3, 2, 2, 4), np.float32)
    v[0, ..., [0, -1], :, :, :] = 1  # the forward direction differs in the first and the last frame
    found = [
        float(
            disagreement(jnp.ones((1, 3, 2, 2, 4)), jnp.asarray(v), jnp.float32(2), Guide(scale=None, weight=jnp.array(w)))[0]
        )
        for w in ((0.5, 0.5, 0.5), (1.0, 0.5, 0.0))
    ]
    assert found[0] > 0.1
    assert found[1] == 0
