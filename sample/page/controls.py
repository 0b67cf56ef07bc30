"""Settings of the page in plain words, and the options of `sample.interpolate` that they stand for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from sample.page.options import PageRequest
from svdjax.errors import InputError
from svdjax.sampling.methods import METHODS, TRAINING_FREE, check_backward_weights, chosen_method
from svdjax.sampling.settings import Settings

# Controls of the page and their options. A control at its value in `start` gives no option: the defaults of
# `sample.interpolate` apply.
OPTIONS = {
    "num_frames": "--num-frames",
    "size": "--size",
    "fps": "--fps",
    "motion": "--motion-bucket-id",
    "seed": "--seed",
    "fit": "--fit",
    "rate": "--rate",
    "playback_fps": "--playback-fps",
    "loop": "--loop",
    "keep_keyframes": "--keep-keyframes",
    "fusion": "--fusion",
    "schedule": "--schedule",
    "steps": "--steps",
    "recurrence": "--recurrence",
}
NAMES = ("quality", "method", *OPTIONS)  # the order of the page's inputs
QUALITIES = [("Draft", "draft"), ("Standard", "standard"), ("Fine", "fine")]
DRAFT = {"steps": 10, "recurrence": 0}
FINE_BRIDGED = {"steps": 50}  # for methods with 25 steps of their own
FINE = {"recurrence": 5}  # that of the official script

METHOD_WORDS = {
    "dual": "Both directions, fine-tuned",
    "no-rotation": "Both directions, fine-tuned without shared motion",
    "no-finetune": "Both directions, shared motion, without fine-tuning",
    "trf": "Both directions, without fine-tuning",
    "trf-shipped": "Time reversal fusion, its authors' settings",
    "vibid": "Directions in turn",
    "forward": "From the first keyframe only",
}
RATES = [("Standard", 1), ("2 times", 2), ("4 times", 4)]
FITS = [("Crop", "crop"), ("Add bars", "pad"), ("Stretch", "stretch")]
FUSIONS = [("As the method", ""), ("Average", "average"), ("Linear: each direction near its keyframe", "linear")]
SCHEDULES = [("As the method", ""), ("EDM", "edm"), ("Align Your Steps, for about 10 steps", "ays")]
SCHEDULES += [("LCM, for distilled weights", "lcm")]


def start(request: PageRequest) -> dict[str, Any]:
    """The values of the controls when the page opens; "" leaves the choice to the quality, the method or the model."""
    fields = {"fps": Settings.fps, "motion": Settings.motion_bucket_id, "seed": Settings.seed}
    frames = request.source.config.unet.num_frames
    switches = {"loop": False, "keep_keyframes": False}
    return (
        dict.fromkeys(NAMES, "") | fields | switches | {"quality": "standard", "num_frames": frames, "fit": "crop", "rate": 1}
    )


def default_method(request: PageRequest) -> str:
    """The method that is used if none is chosen, with its prefix, such as `mpd+vibid`."""
    method, fields = chosen_method(None, request.trained_kinds("dual"), {})
    return "+".join(filter(None, [fields.get("prefix"), method.name]))


def method_choices(request: PageRequest) -> list[tuple[str, str]]:
    """Labels and values of the methods that the model has weights for; the value "" is the default method."""
    found = [("Automatic", "")]
    for name in METHODS:
        with contextlib.suppress(InputError):
            check_backward_weights(name, request.trained_kinds(name))
            found.append((f"{METHOD_WORDS.get(name, METHODS[name].summary)} ({name})", name))
    name, prefix = TRAINING_FREE
    found.append((f"{METHOD_WORDS[name]}, with a motion prior ({prefix}+{name})", f"{prefix}+{name}"))
    used = default_method(request)
    label = next(label for label, value in found if value == used)
    return [(f"Automatic: {label[0].lower()}{label[1:]}", ""), *found[1:]]


def size_choices(request: PageRequest) -> list[tuple[str, str]]:
    """Labels and values of sizes: the model's, three quarters and half of it, upright too; "" is the model's."""
    config = request.source.config
    sizes = []
    for share in (1, 0.75, 0.5):
        sides = [max(1, round(side * share / config.size_multiple)) * config.size_multiple for side in config.default_size]
        sizes += [f"{sides[0]}x{sides[1]}", f"{sides[1]}x{sides[0]}"]
    return [("As the model", ""), *((size, size) for size in dict.fromkeys(sizes))]


def words_of(values: Mapping[str, Any], request: PageRequest) -> list[str]:
    """The options of `sample.interpolate` for the page's settings; `values` has the keys `NAMES`."""
    used = values["method"] or default_method(request)
    quality = {"draft": DRAFT, "standard": {}, "fine": FINE_BRIDGED if "vibid" in used else FINE}[values["quality"]]
    prefix, _, method = values["method"].rpartition("+")
    words = [f"--method={method}"] * bool(method) + [f"--prefix={prefix}"] * bool(prefix)
    default = start(request)
    for name, option in OPTIONS.items():
        value = quality.get(name) if values[name] == default[name] else values[name]
        if value is True:
            words.append(option)
        elif value is not None and value != "":
            words.append(f"{option}={value}")
    return [*request.words, *words]
