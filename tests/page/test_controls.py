"""The page's settings in plain words become options of `sample.interpolate`."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

from sample import interpolation_options
from sample.options import method_options
from sample.page import controls, options
from sample.page.controls import NAMES
from svdjax.loading import find_model
from svdjax.media.fit import check_size, parse_size
from svdjax.sampling.methods import METHODS


@pytest.fixture(scope="module")
def request_(page_request):
    return page_request()


@pytest.fixture(scope="module")
def plain(page_request):
    """A model without backward weights."""
    return page_request(model="my svd", source=dataclasses.replace(find_model(None), backward=None), words=("--model=my svd",))


def words(request, **changes):
    return controls.words_of(controls.start(request) | changes, request)


def test_the_page_opens_with_the_defaults(request_):
    assert tuple(controls.start(request_)) == NAMES
    assert words(request_) == []


CHANGES = {
    "num_frames": (5, "num_frames", 5),
    "size": ("96x64", "size", "96x64"),
    "fps": (12, "fps", 12),
    "motion": (60.5, "motion_bucket_id", 60.5),
    "seed": (9, "seed", 9),
    "fit": ("pad", "fit", "pad"),
    "rate": (4, "rate", 4),
    "playback_fps": ("23.976", "playback_fps", "23.976"),
    "loop": (True, "loop", True),
    "keep_keyframes": (True, "keep_keyframes", True),
    "fusion": ("linear", "fusion", "linear"),
    "schedule": ("ays", "schedule", "ays"),
    "steps": ("7", "steps", 7),
    "recurrence": ("0", "recurrence", 0),
    "method": ("trf", "method", "trf"),
}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "quality"])
def test_a_control_is_its_option(name, request_):
    value, option, parsed = CHANGES[name]
    args = interpolation_options.parser().parse_args(["a.png", "b.png", *words(request_, **{name: value})])
    assert getattr(args, option) == parsed
    default = interpolation_options.parser().parse_args(["a.png", "b.png"])
    assert {key for key, value in vars(args).items() if value != getattr(default, key)} == {option}


def test_a_cleared_number_is_the_default(request_):
    assert words(request_, fps=None, seed=None, num_frames=None) == []


def test_qualities(request_, plain):
    assert words(request_, quality="draft") == ["--steps=10", "--recurrence=0"]
    assert words(request_, quality="fine") == ["--recurrence=5"]
    assert words(request_, quality="draft", steps="4") == ["--steps=4", "--recurrence=0"]
    assert words(plain, quality="fine")[1:] == ["--steps=50"]  # without backward weights, mpd+vibid
    assert words(plain, quality="fine", method="trf")[1:] == ["--method=trf", "--recurrence=5"]


def test_methods(request_, plain):
    labels, names = zip(*controls.method_choices(request_), strict=True)
    assert names == ("", *METHODS, "mpd+vibid")
    assert labels[0].startswith("Automatic: both directions, fine-tuned (dual)")
    labels, names = zip(*controls.method_choices(plain), strict=True)
    assert not {"dual", "no-rotation"} & set(names)
    assert labels[0].endswith("(mpd+vibid)")
    assert words(request_, method="mpd+vibid") == ["--method=vibid", "--prefix=mpd"]


def test_sizes_fit_the_model(request_, plain):
    for request in (request_, plain):
        (_, own), *others = controls.size_choices(request)
        assert own == ""
        assert others
        for _, size in others:
            check_size(*parse_size(size), request.source.config.size_multiple)


def test_every_choice_of_the_page_is_accepted(request_):
    lists = {"fit": controls.FITS, "rate": controls.RATES, "fusion": controls.FUSIONS, "schedule": controls.SCHEDULES}
    for name, choices in lists.items():
        for _, value in choices:
            interpolation_options.parser().parse_args(["a.png", "b.png", *words(request_, **{name: value})])
    for _, method in controls.method_choices(request_):
        for _, quality in controls.QUALITIES:
            args = interpolation_options.parser().parse_args(words(request_, method=method, quality=quality))
            method_options.choose_method(args, request_.source_for(args.method or "dual"))


def test_the_command_can_be_copied(plain):
    names = ["my first.png", "-last.png", "it's.png"]
    text = options.command_text([*plain.words, "--seed=1"], names)
    parsed = interpolation_options.parser().parse_args(shlex.split(text)[3:])
    assert parsed.keyframes == ["my first.png", "./-last.png", "it's.png"]
    assert (parsed.seed, parsed.model) == (1, "my svd")
