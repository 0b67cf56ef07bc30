"""Lower bounds of the time of a clip for methods and settings, from the compiled programs of their updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sample.planning.plan import PlannedProgram
from svdjax.config import SVDConfig
from svdjax.errors import InputError
from svdjax.memory.programs import Program
from svdjax.models.backward import VALUES
from svdjax.models.svd import abstract_model
from svdjax.sampling.clip_work import ClipWork, sample_programs
from svdjax.sampling.methods import Method, parse_name, settings_of
from svdjax.sampling.settings import Settings

HELP = (
    "lower bounds of the time of a clip with these methods instead of the programs of a dual step; settings may follow a name, "
    "as in dual:steps=10:schedule=ays, vibid, mpd+trf or dual:guidance_steps=5,15"
)


@dataclass(frozen=True, kw_only=True)
class MethodCost:
    """What sampling a clip costs.

    Attributes:
        name: the method with its settings.
        steps: of the method.
        unet_clips: clips that the UNet predicts; 4 are a dual step with guidance.
        flops: floating-point operations.
        hbm_bytes: bytes moved through the device's memory.
        floor_seconds: lower bound: of each program the larger of its two floors, summed over its runs.
        clip_floor_seconds: the same with encoding and decoding.
    """

    name: str
    steps: int
    unet_clips: int
    flops: int
    hbm_bytes: int
    floor_seconds: float
    clip_floor_seconds: float


def parse(text: str) -> tuple[Method, dict[str, Any]]:
    """Method and fields of `Settings` from a value of `--method`, such as `mpd+trf:steps=10`.

    Raises:
        InputError: an unknown method or field, or a value that isn't allowed.
    """
    name, *given = text.split(":")
    try:
        method, fields = parse_name(name)
        known = {field.name for field in dataclasses.fields(Settings)}
        for item in given:
            key, equals, value = item.partition("=")
            if key == "num_frames":
                raise InputError("num_frames is that of --num-frames, which encoding and decoding follow too")
            if not equals or key not in known:
                raise InputError(f"setting {item!r}: unknown, expected NAME=VALUE with a field of Settings")
            fields[key] = _value(value)
        settings_of(method, fields, {})
    except InputError as e:
        raise InputError(f"--method {text}: {e}") from None
    return method, fields


def _value(text: str) -> Any:
    parts = [_number(part) for part in text.split(",")]
    return tuple(parts) if len(parts) > 1 else parts[0]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def cost(
    text: str,
    config: SVDConfig,
    size: tuple[int, int],
    num_frames: int,
    dtype: Any,
    defaults: Mapping[str, Any],
    plan: Callable[[Program], PlannedProgram],
    others: Sequence[PlannedProgram],
) -> MethodCost:
    """The cost of a clip; see `parse` for `text`.

    Args:
        text: the method.
        config, size, num_frames, dtype, defaults: as for `sampling.plan_for_card`.
        plan: compiles a program.
        others: encoding and decoding.
    """
    method, fields = parse(text)
    settings = settings_of(method, fields, {"num_frames": num_frames, **defaults})
    model = abstract_model(config, dtype, VALUES if method.fine_tuned else None)
    work = ClipWork(model=model, size=size, settings=settings, method=method)
    programs, _ = sample_programs(work, "together")  # one for each kind of update, in their order
    kinds = dict.fromkeys(work.run.kinds)
    parts = [(plan(made), work.run.kinds.count(kind)) for kind, made in zip(kinds, programs, strict=True)]
    seconds = sum(runs * floor(part) for part, runs in parts)
    return MethodCost(
        name=text,
        steps=settings.steps,
        unet_clips=work.run.passes,
        flops=sum(runs * part.flops for part, runs in parts),
        hbm_bytes=round(sum(runs * part.hbm_bytes for part, runs in parts)),
        floor_seconds=seconds,
        clip_floor_seconds=seconds + sum(map(floor, others)),
    )


def floor(program: PlannedProgram) -> float:
    """Lower bound of a program's time, in seconds."""
    return max(program.flops_seconds, program.hbm_seconds)
