"""Lower bounds of the time of methods: what is counted, with programs that cost one each. Nothing is compiled."""

from __future__ import annotations

import benchmark_model
import pytest

from sample.benchmarking import options
from sample.planning import methods, plan, table
from sample.planning.hbm import Kernels
from sample.planning.targets import CARDS
from svdjax import embedded_model
from svdjax.errors import InputError
from svdjax.memory.programs import ProgramMemory

CARD = CARDS["rtx4090"]


def program(name: str, seconds: float) -> plan.PlannedProgram:
    """A program with a floor of `seconds`, by its bytes; its operations take half of it."""
    return plan.PlannedProgram(
        name=name,
        card=CARD,
        devices=1,
        flops=int(seconds * CARD.flops_per_second / 2),
        memory=ProgramMemory(0, 0, 0),
        kernels=[Kernels("elementwise", 1, seconds * CARD.bandwidth)],
        traffic=None,
        compile_seconds=0.0,
    )


def cost(text: str, **defaults) -> tuple[methods.MethodCost, set]:
    """The cost of a method with a model's defaults, and its programs."""
    seen = {}
    others = [program("encode", 3), program("decode", 4)]
    clip = benchmark_model.TINY, (24, 16), 3, "float32", defaults
    planned = methods.cost(text, *clip, lambda p: seen.setdefault(p.key, program(p.name, 1)), others)
    return planned, set(seen)


@pytest.mark.parametrize(
    ("text", "updates", "clips", "programs"),
    [
        ("dual:steps=4", 4, 16, 1),
        ("dual:steps=4:guidance_steps=1,2", 4, 10, 2),  # guidance in one step; without it two clips each
        ("dual:steps=4:deep_every=2", 4, 16, 2),
        ("vibid:steps=4", 8, 16, 1),  # two half updates a step
        ("mpd+vibid:steps=5", 13, 26, 1),  # three more in the first of five steps
    ],
)
def test_counts(text, updates, clips, programs):
    found, seen = cost(text)
    assert (found.name, found.unet_clips, len(seen)) == (text, clips, programs)
    assert found.floor_seconds == pytest.approx(updates)
    assert found.clip_floor_seconds == pytest.approx(updates + 7)
    assert found.hbm_bytes == pytest.approx(updates * CARD.bandwidth)
    assert found.flops == pytest.approx(updates * CARD.flops_per_second / 2)


def test_what_is_left_out_has_the_models_defaults():
    assert cost("dual", steps=4, recurrence=1)[0].floor_seconds == pytest.approx(6)  # two of four steps twice
    assert cost("dual:recurrence=0", steps=4, recurrence=1)[0].floor_seconds == pytest.approx(4)
    assert cost("vibid", steps=4)[0].steps == 25  # a method's own come first


def test_the_embedded_model_has_defaults():
    assert options.parse(["--model", "embedded", "--compile-only"])[0].defaults == embedded_model.DEFAULTS
    assert options.parse(["--preset", "small", "--compile-only"])[0].defaults == {}


def test_values_and_table():
    costs = [vars(cost("dual:steps=4")[0])]
    whole = plan.Plan(card=CARD, programs=[program("encode", 3)], costs=costs)
    assert whole.to_json()["methods"] == costs
    assert any(line.startswith("dual:steps=4 ") and line.endswith(" 11.00 s") for line in table.table(whole).splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "method 'nothing': unknown"),
        ("dual:speed=2", "setting 'speed=2': unknown"),
        ("dual:num_frames=9", "num_frames is that of --num-frames"),
        ("dual:steps", "setting 'steps': unknown"),
        ("dual:steps=0", "steps is 0"),
        ("mpd+forward", "prefix mpd"),
    ],
)
def test_user_errors(text, message):
    with pytest.raises(InputError, match=f"^--method {text.replace('+', '.')}: .*{message}"):
        methods.parse(text)
