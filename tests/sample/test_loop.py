"""Loops and kept keyframes: frames of chains without sampling, and measured on the embedded world."""

from __future__ import annotations

import goldens
import numpy as np
import pytest

import svdjax
from sample.contact_sheet import cross_fade
from svdjax import chain
from svdjax.media import keyframe_blend
from svdjax.world.drawing import render
from svdjax.world.scene import scene

FRAMES = 5


@pytest.fixture
def keyframes():
    """Three flat keyframes of 64x64, levels 10, 100 and 200."""
    return [np.full((64, 64, 3), level, np.uint8) for level in (10, 100, 200)]


@pytest.fixture
def model(monkeypatch):
    """Model A; instead of sampling, every clip is a cross-fade of its keyframes, 3 levels brighter, as decoded by a VAE."""

    def sample_pair(model, first, last, settings, *, method, draws, progress, plan, observe, **_):
        if progress is not None:
            progress(2, 2)
        return [cross_fade(*ends, settings.num_frames) for ends in zip(first, last, strict=True)]

    monkeypatch.setattr(chain, "sample_pair", sample_pair)
    monkeypatch.setattr(chain, "decode", lambda model, latents, chunk, plan: np.stack(latents) + np.uint8(3))
    return goldens.svd()


def levels(frames):
    return frames[..., 0, 0, 0].tolist()


def test_a_loop_leads_back_to_the_first_keyframe_which_is_shown_once(model, keyframes):
    def seen(*given, **options):
        return levels(svdjax.interpolate(model, *given, num_frames=FRAMES, method="trf", **options))

    a, b, c = keyframes
    there, back = seen(a, b), seen(b, a)
    assert seen(a, b, loop=True) == there + back[1:-1]
    assert len(seen(a, b, loop=True)) == 2 * (FRAMES - 1)
    assert seen(a, b, c, loop=True) == there + seen(b, c)[1:] + seen(c, a)[1:-1]
    assert seen(a, b, a) == there + back[1:]  # without `loop`, the first keyframe is shown again
    batch = [np.stack([image, image[::-1]]) for image in keyframes]
    looped = svdjax.interpolate(model, *batch, num_frames=FRAMES, method="trf", loop=True)
    assert looped.shape == (2, 3 * (FRAMES - 1), 64, 64, 3)
    assert levels(looped[0]) == seen(a, b, c, loop=True)


def test_progress_counts_the_clip_that_leads_back(model, keyframes):
    reports = []
    svdjax.interpolate(model, *keyframes, num_frames=FRAMES, method="trf", loop=True, progress=lambda *r: reports.append(r))
    assert reports == [(2, 6), (4, 6), (6, 6)]


def test_a_loop_that_ends_with_its_first_keyframe_is_refused(model, keyframes):
    a, b, _ = keyframes
    for given in ((a, b, a), (a, a)):
        with pytest.raises(svdjax.InputError, match=r"^loop: the last keyframe equals the first; leave it out"):
            svdjax.interpolate(model, *given, method="trf", loop=True)


@pytest.mark.parametrize("loop", [False, True])
def test_kept_keyframes_are_exact_at_their_places(model, keyframes, loop):
    options = {"num_frames": FRAMES, "method": "trf", "loop": loop}
    plain = levels(svdjax.interpolate(model, *keyframes, **options))
    kept = levels(svdjax.interpolate(model, *keyframes, **options, keep_keyframes=True))
    assert [kept[k * (FRAMES - 1)] for k in range(3)] == [10, 100, 200]
    assert kept == [level - 3 for level in plain]  # the frames in between have the keyframes' colours too
    assert len(kept) == (3 if loop else 2) * (FRAMES - 1) + (not loop)


def test_kept_keyframes_need_a_method_that_leads_to_the_last(model, keyframes):
    with pytest.raises(svdjax.InputError, match=r"^keep_keyframes: method forward doesn't lead to the last keyframe"):
        svdjax.interpolate(model, *keyframes, method="forward", keep_keyframes=True)


@pytest.mark.heavy
def test_the_frames_beside_kept_keyframes_do_not_jump():
    """Mean absolute differences in levels on 16 clips of the embedded world; -s prints the table.

    Step: between a keyframe and the frame beside it, and between the frames inside. Colour: the same of the channels' means.
    Error: of the frames beside the keyframes, against the true ones.
    """
    truth = np.stack([render(scene("test", number)) for number in range(100, 116)])
    model = svdjax.load("embedded", dtype="float32")
    parts = np.split(truth, 4)
    plain = np.concatenate([svdjax.interpolate(model, part[:, 0], part[:, -1]) for part in parts])
    replaced = plain.copy()
    replaced[:, [0, -1]] = truth[:, [0, -1]]
    clips = {
        "the true frames": truth,
        "without --keep-keyframes": plain,
        "keyframes put in, nothing else": replaced,
        "--keep-keyframes": keyframe_blend.keep_keyframes(plain, truth[:, 0], truth[:, -1]),
    }
    found = {name: differences(clip.astype(float), truth) for name, clip in clips.items()}
    print("\n| | step at a keyframe | step inside | colour step at a keyframe | inside | error beside |\n|---|--|--|--|--|--|")
    for name, values in found.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    kept, put_in, before = (found[name] for name in reversed(list(clips)[1:]))
    inside = before[1]  # a jump is what a step at a keyframe has more than those inside
    assert kept[0] - inside < 0.3 * (min(put_in[0], before[0]) - inside)
    assert kept[1] < 1.05 * before[1]
    assert kept[2] < 1.5 * found["the true frames"][2]
    assert kept[4] < 0.8 * before[4]


def differences(clips, truth):
    """Step at a keyframe, step inside, colour step at a keyframe, inside, error beside the keyframes."""
    steps = np.diff(clips, axis=1)
    size, colour = np.abs(steps).mean((0, 2, 3, 4)), np.abs(steps.mean((2, 3))).mean((0, 2))
    error = np.abs(clips - truth)[:, [1, -2]].mean()
    return size[[0, -1]].mean(), size[1:-1].mean(), colour[[0, -1]].mean(), colour[1:-1].mean(), error
