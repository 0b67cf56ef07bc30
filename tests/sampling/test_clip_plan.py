"""Plans within a budget: the cheapest that fits, by a stand-in for the compiler; frames under real plans."""

from __future__ import annotations

import dataclasses
import functools
import re

import goldens
import jax
import numpy as np
import pytest

import svdjax
from svdjax.decoding.staged_decode import DecodePlan
from svdjax.devices.budget import GIB
from svdjax.errors import InputError
from svdjax.memory.programs import Phase, Program, ProgramMemory, bytes_of
from svdjax.models.svd import abstract_model
from svdjax.presets import TINY
from svdjax.sampling import clip_programs
from svdjax.sampling.clip_plan import ClipPlan, make_plan, plan_clips, plan_for
from svdjax.sampling.clip_work import ClipWork, sample_programs
from svdjax.sampling.generation import sample_pair
from svdjax.sampling.methods import settings_of
from svdjax.sampling.passes import passes_of
from svdjax.sampling.settings import Settings

SIZE, FRAMES = (64, 64), 8
# scratch in MiB
SCRATCH = {"encode": 6, "step": 44, "half_step": 24, "forward_clip": 13, "backward_clip": 14, "stage": 2**-20}
SCRATCH |= {"direction_step": 24, "direction_half_step": 13}
TRANSFERS = 10**9


class Compiler:
    """Stands in for a compiler; keeps the names of the programs."""

    def __init__(self):
        self.compiled: list[str] = []

    def __call__(self, program: Program) -> ProgramMemory:
        self.compiled.append(program.name)
        return ProgramMemory(int(SCRATCH[program.name] * 2**20), bytes_of(program.args), 0)


class Decoding:
    """Stands in for `staged_decode`: more memory than sampling together, than sampling in two halves, or very little."""

    PLANS = {  # noqa: RUF012
        DecodePlan(block_bytes=2**62): 50 * 2**20,
        DecodePlan(block_bytes=2**30): 42 * 2**20,
        DecodePlan(block_bytes=2**30, in_passes=True): 2**20,
    }

    @staticmethod
    def candidates(config, latent_shape, dtype):
        return list(Decoding.PLANS)

    @staticmethod
    def phase(config, latent_shape, dtype, plan, compile_program):
        scratch = compile_program(Program(name="stage", fn=None, args=())).scratch_bytes * Decoding.PLANS[plan]
        resident = clip_programs._part_bytes(tiny(), clip_programs.DECODER)
        return Phase(name="decode", resident_bytes=resident, scratch_bytes=scratch, program="stage")

    @staticmethod
    def least_bytes(config, latent_shape, dtype, plan):
        return clip_programs._part_bytes(tiny(), clip_programs.DECODER)

    @staticmethod
    def transfer_bytes(config, latent_shape, dtype, plan):
        return TRANSFERS if plan.in_passes else 0


@functools.cache
def tiny():
    return abstract_model(TINY, "float32")


@pytest.fixture
def stand_ins(monkeypatch):
    """It takes a second to make; decoding has tests of its own."""
    monkeypatch.setattr(clip_programs, "staged_decode", Decoding)
    monkeypatch.setattr("svdjax.sampling.clip_plan.abstract_model", lambda *_: tiny())


def plan(budget: float, compiler: Compiler | None = None, **kw) -> ClipPlan:
    return make_plan(TINY, SIZE, FRAMES, "float32", int(budget), compile=compiler or Compiler(), **kw)


@functools.cache
def needed(passes: str, offload: bool) -> int:
    """Bytes for sampling."""
    work = ClipWork(model=tiny(), size=SIZE, settings=Settings(num_frames=FRAMES))
    return clip_programs.Phases(work, Compiler()).sample(passes, offload).peak_bytes


def test_the_cheapest_plan_that_fits_is_taken(stand_ins):
    expected = [("together", False), ("together", True), ("guidance", True), ("clips", True)]
    for passes, offload in expected:
        made = plan(needed(passes, offload))
        assert (made.passes, made.offload) == (passes, offload)
        assert made.peak_bytes <= made.budget_bytes
        assert [phase.name for phase in made.phases] == ["encode", "sample", "decode"]
    weights = bytes_of((tiny().unet, tiny().backward, tiny().image_encoder, tiny().vae))
    assert not plan(GIB).transfer_bytes
    assert 0.9 * weights < plan(needed("together", True)).transfer_bytes <= weights
    assert plan(needed("clips", True)).transfer_bytes > TRANSFERS
    # a smaller block costs less than transfers
    made = plan(needed("together", False))
    assert (made.offload, made.decode.block_bytes) == (False, 2**30)
    # one more UNet call costs more than transfers, and there are no useless transfers
    assert plan(needed("together", False) - 1).offload
    assert not plan(needed("together", False)).offload


def test_programs_that_cannot_fit_are_not_compiled(stand_ins, monkeypatch):
    budget = needed("clips", True)
    monkeypatch.setattr(clip_programs, "LEAST_ACTIVATIONS", 25)
    compiler = Compiler()
    plan(budget, compiler)
    assert "step" not in compiler.compiled
    assert all(compiler.compiled.count(name) == 1 for name in ("encode", "forward_clip", "backward_clip"))


def test_only_passes_that_differ(stand_ins):
    compiler = Compiler()
    with pytest.raises(InputError):
        plan(2**24, compiler, directions=1, guidance=False)
    assert not {"half_step", "forward_clip"} & set(compiler.compiled)


@pytest.mark.parametrize(
    ("method", "given", "names"),
    [
        ("vibid", {"prefix": "mpd"}, [{"direction_step"}, {"direction_half_step"}]),
        (
            "dual",
            {"prefix": "mpd"},
            [
                {"direction_step", "step"},
                {"direction_half_step", "half_step"},
                {"direction_half_step", "forward_clip", "backward_clip"},
            ],
        ),
    ],
)
def test_every_program_of_a_run_is_planned(method, given, names):
    """The programs for each of the passes that differ."""
    work = ClipWork(model=tiny(), size=SIZE, settings=settings_of(method, given, {"num_frames": FRAMES}), method=method)
    passes = passes_of(work.together, work.guided)
    found = [{program.name for program in sample_programs(work, one)[0]} for one in passes]
    assert found == names
    phases = clip_programs.Phases(work, Compiler())
    needed = [phases.sample(one, True).peak_bytes for one in passes]
    assert needed == sorted(needed, reverse=True)
    assert all(phases.least_sample(one, True) <= phases.sample(one, True).peak_bytes for one in passes)


def test_kept_deep_features_need_memory():
    works = [ClipWork(model=tiny(), size=SIZE, settings=Settings(num_frames=FRAMES, deep_every=every)) for every in (1, 2)]
    plain, kept = (clip_programs.Phases(work, Compiler()).sample("together", True).resident_bytes for work in works)
    f, h, w, _ = works[0].latent_shape
    assert kept - plain == 4 * f * h * w * TINY.unet.block_out_channels[0] * 4  # four clips, float32


def test_too_little_memory_is_refused_in_one_line_with_the_numbers(stand_ins):
    with pytest.raises(InputError) as e:
        plan(needed("clips", True) - 2**20)
    assert re.fullmatch(
        r"memory is 0\.\d+ GiB: 8 frames of 64x64 need at least 0\.\d+ GiB for sample in the smallest plan; "
        r"try a smaller size, fewer frames or bfloat16",
        str(e.value),
    )


def test_a_plan_is_described(stand_ins):
    made = plan(needed("clips", True))
    first, second = made.describe()
    assert re.match(r"plan for 0\.0\d+ GiB: one UNet call for each clip", first)
    assert "networks are kept in host memory" in first
    assert "GB between host and device per clip or batch" in first
    assert re.fullmatch(r"planned peaks in GiB: encode 0\.\d+, sample 0\.\d+, decode 0\.\d+", second)
    assert made.as_text() == {"plan": "clips, offload, decode in parts"}


def test_no_plan_on_a_cpu_unless_asked():
    work = ClipWork(model=tiny(), size=SIZE, settings=Settings())
    assert plan_for(work, None) is None


@pytest.mark.parametrize("memory", [0, -1, float("nan"), float("inf"), "2", True, 1e9])
def test_bad_memory(memory):
    work = ClipWork(model=tiny(), size=SIZE, settings=Settings())
    with pytest.raises(InputError, match=r"memory is .*, expected"):
        plan_for(work, memory)


@pytest.mark.heavy
def test_frames_are_equal_under_every_plan():
    """The embedded model with its weights in host memory; budgets are chosen from what the compiler reports."""
    first, last = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    settings = {"steps": 2, "recurrence": 1}
    expected = svdjax.interpolate(svdjax.load("embedded"), first, last, **settings).astype(int)
    model = svdjax.load("embedded", offload=True)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves((model.unet, model.vae, model.image_encoder, model.backward)))
    work = ClipWork(model=model, size=(64, 64), settings=svdjax.pipeline.settings_for(model, **settings))
    phases = clip_programs.Phases(work, clip_programs.compile_here)
    used = set()
    for passes in ("together", "guidance", "clips"):
        budget = phases.sample(passes, True).peak_bytes
        try:
            made = plan_clips(work, budget, offload=(True,))
        except InputError:  # decoding this small clip needs more
            continue
        used.add(made.passes)
        frames = svdjax.interpolate(model, first, last, memory=budget / GIB, **settings)
        assert np.abs(frames - expected).max() <= 1, passes
    assert "together" in used
    assert len(used) > 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("method", "given"),
    [("vibid", {"prefix": "mpd", "steps": 1}), ("dual", {"prefix": "mpd", "steps": 3, "prefix_repeats": 1, "deep_every": 2})],
)
def test_latents_of_other_methods_are_equal_under_every_plan(method, given):
    """The embedded model with its weights in host memory."""
    first, last = np.random.default_rng(0).integers(0, 256, (2, 1, 64, 64, 3), np.uint8)
    model = svdjax.load("embedded", offload=True)
    settings = settings_of(method, given, {"num_frames": FRAMES})
    work = ClipWork(model=model, size=SIZE, settings=settings, method=method)
    plain = ClipPlan(
        passes="together", offload=True, decode=DecodePlan(block_bytes=2**30), phases=(), transfer_bytes=0, budget_bytes=0
    )

    def latents(plan: ClipPlan | None) -> np.ndarray:
        return np.asarray(sample_pair(model, first, last, settings, method=method, plan=plan))

    expected = latents(None)
    for passes in passes_of(work.together, work.guided):
        assert goldens.relative(latents(dataclasses.replace(plain, passes=passes)), expected) < 1e-5, passes
