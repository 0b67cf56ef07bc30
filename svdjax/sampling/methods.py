"""Methods to sample the frames between two keyframes, as declarations: updates, backward direction, own default settings.

Order of the draws of a run: `augmentation`, `initial`, then `recurrence`, one for each update that starts at a higher noise
level than the latents have, in the order of the updates:

- Euler methods: one for each repetition of a step; `trf-shipped` also one at its jump.
- `vibid`: one in each step, between its two halves, and two for each repetition of a step.
- prefix `mpd`: one after each of its updates.
- levels `lcm`: also one before each step but the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax import Array

from svdjax.config import EDMConfig
from svdjax.errors import InputError, one_line
from svdjax.models.backward import EVERYWHERE, NOWHERE, QUERIES, UP_BLOCKS, Backward
from svdjax.sampling.edm import SCHEDULES
from svdjax.sampling.runs import Run, make_run
from svdjax.sampling.settings import Settings
from svdjax.sampling.updates import Update, euler_updates, jump_updates, mpd_prefix, vibid_updates

CFG_PLUS_PLUS = {"steps": 25, "guidance": (1.0, 1.0), "recurrence": 0}  # settings of ViBiDSampler and MPD


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to sample the frames between two keyframes.

    Attributes:
        name: for options and messages.
        summary: one line.
        updates: settings -> the updates of a run, in order.
        directions: 2, or 1 for the forward direction only, without the last keyframe.
        fine_tuned: whether the backward direction needs tensors of its own.
        maps_from_forward: the layers in which it uses the rotated forward maps, see `Backward`.
        keyframe_latents: whether the updates need the keyframes' clean latents.
        defaults: its own values for fields of `Settings` that are not given.
    """

    name: str
    summary: str
    updates: Callable[[Settings], Sequence[Update]]
    directions: int = 2
    fine_tuned: bool = False
    maps_from_forward: tuple[str, ...] = NOWHERE
    keyframe_latents: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_ALL = (
    Method(
        name="dual",
        summary="both directions; the backward one is fine-tuned and uses the rotated forward maps",
        updates=euler_updates,
        fine_tuned=True,
        maps_from_forward=EVERYWHERE,
    ),
    Method(
        name="trf",
        summary="both directions with the forward weights, each with its own maps (time reversal fusion)",
        updates=euler_updates,
    ),
    Method(
        name="no-finetune",
        summary="both directions with the forward weights; the backward one uses rotated maps in the up blocks",
        updates=euler_updates,
        maps_from_forward=UP_BLOCKS,
    ),
    Method(
        name="no-rotation",
        summary="both directions; the backward one is fine-tuned without rotated maps (train.backward --no-rotation)",
        updates=euler_updates,
        fine_tuned=True,
    ),
    Method(
        name="forward",
        summary="only the forward direction, from the first keyframe: SVD's image-to-video",
        updates=euler_updates,
        directions=1,
    ),
    Method(
        name="vibid",
        summary="the directions in turn with the forward weights, each led to the other keyframe (ViBiDSampler)",
        updates=vibid_updates,
        keyframe_latents=True,
        defaults=CFG_PLUS_PLUS,
    ),
    Method(
        name="trf-shipped",
        summary="as trf, with the settings of its authors' code: linear fusion, steps 5 to 9 run twice",
        updates=jump_updates,
        defaults={"steps": 50, "guidance": (1.0, 3.0), "fusion": "linear", "recurrence": 0},
    ),
)
METHODS = {method.name: method for method in _ALL}
FINE_TUNED = tuple(method.name for method in _ALL if method.fine_tuned)
TRAINING_FREE = "vibid", "mpd"  # method and prefix without backward weights: the best published FVD of such methods


def method_of(method: str | Method) -> Method:
    """A method by name, or as given.

    Raises:
        InputError: an unknown name.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"method {one_line(repr(method), 60)}: unknown, expected one of {', '.join(METHODS)}")
    return METHODS[method]


def parse_name(name: str) -> tuple[Method, dict[str, Any]]:
    """Method and fields of `Settings` for a name such as `vibid` or `mpd+vibid`: a method, or a prefix and a method.

    Raises:
        InputError: an unknown method or prefix, or a method that can't have the prefix.
    """
    prefix, plus, rest = name.rpartition("+")
    method = method_of(rest)
    fields: dict[str, Any] = {"prefix": prefix} if plus else {}
    if plus:
        check_prefix(method, Settings(**fields))
    return method, fields


def check_prefix(method: Method, settings: Settings) -> None:
    """Raise `InputError` if the settings have a prefix that the method can't have."""
    if settings.prefix is not None and method.directions == 1:
        raise InputError(f"prefix {settings.prefix}: method {method.name} doesn't lead to the last keyframe, expected another")


def chosen_method(
    method: str | Method | None, names: Collection[str] | None, given: Mapping[str, Any]
) -> tuple[Method, dict[str, Any]]:
    """The method of a run and the given fields of `Settings`; see `TRAINING_FREE` for runs without backward weights.

    Args:
        method: None is `dual` if there are backward weights, and otherwise `TRAINING_FREE`.
        names: names of the backward tensors or their kinds; None if there are none.
        given: fields of `Settings`.
    """
    if method is None and names is None:
        name, prefix = TRAINING_FREE
        return METHODS[name], {"prefix": prefix, **given}
    return method_of("dual" if method is None else method), dict(given)


def settings_of(method: str | Method, given: Mapping[str, Any], model: Mapping[str, Any]) -> Settings:
    """`Settings` of a run: the given fields, then those of the levels, the prefix, the method, the model, `Settings`.

    Args:
        method: a key of `METHODS`, or a method.
        given: fields of `Settings`.
        model: the model's own defaults.

    Raises:
        InputError: see `Settings`, or a prefix that the method can't have.
    """
    method = method_of(method)
    settings = Settings(**{**_with_defaults(model), **_with_defaults(method.defaults), **_with_defaults(given)})
    check_prefix(method, settings)
    method.updates(settings)  # it may refuse settings too
    return settings


def _with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Settings`, and the defaults of the levels and the prefix among them."""
    schedule = fields.get("schedule")
    known = isinstance(schedule, str) and schedule in SCHEDULES  # `Settings` refuses an unknown name
    levels = SCHEDULES[str(schedule)].defaults if known else {}
    return {**(CFG_PLUS_PLUS if fields.get("prefix") else {}), **levels, **fields}


def run_of(method: str | Method, settings: Settings, config: EDMConfig, directions: int | None = None) -> Run:
    """The updates of a run.

    Args:
        method: a key of `METHODS`, or a method.
        settings: its settings.
        config: the range of noise levels.
        directions: directions of the conditioning; None for those of the method.
    """
    method = method_of(method)
    levels = SCHEDULES[settings.schedule]
    updates = method.updates(settings)
    check_prefix(method, settings)
    updates = mpd_prefix(updates, settings) if settings.prefix else updates
    if levels.to_clean:
        updates = [dataclasses.replace(update, stop=settings.steps) for update in updates]
    return make_run(updates, levels.sigmas(settings.steps, config), settings, directions or method.directions)


def needs_keyframe_latents(method: str | Method, settings: Settings) -> bool:
    """Whether a run needs the keyframes' clean latents."""
    return method_of(method).keyframe_latents or settings.prefix is not None


def backward_of(method: str | Method, params: Mapping[str, Array] | None) -> Backward | None:
    """The backward half of a method's fused updates; None if it has only the forward direction.

    Args:
        method: a key of `METHODS`, or a method.
        params: the tensors of the backward direction, needed by the methods in `FINE_TUNED`.

    Raises:
        InputError: an unknown method, or backward weights that are missing or were trained for another method.
    """
    check_backward_weights(method, params)
    method = method_of(method)
    if method.directions == 1:
        return None
    if method.fine_tuned:
        assert params is not None
        return Backward(params, method.maps_from_forward)
    return Backward({}, method.maps_from_forward)


def check_backward_weights(method: str | Method, names: Collection[str] | None) -> None:
    """Raise `InputError` unless a method is known and the backward weights were trained for it.

    Args:
        method: a key of `METHODS`, or a method.
        names: names of the backward tensors, or their kinds (`svdjax.models.backward`); None if there are none.
    """
    method = method_of(method)
    if not method.fine_tuned:
        return
    if names is None:
        raise InputError(
            f"method {method.name}: the model has no backward weights, but the method needs them: convert with --backward DIR, "
            "or give --backward DIR (svdjax.load(path, backward=DIR))"
        )
    without_rotation = any(name.endswith(QUERIES) for name in names)
    if without_rotation is not (method.maps_from_forward == NOWHERE):
        actual, expected = ("without", "with") if without_rotation else ("with", "without")
        raise InputError(
            f"method {method.name}: the backward weights were trained {actual} rotated maps, expected {expected} them"
        )
