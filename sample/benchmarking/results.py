"""Results of a benchmark, and their keys in the file of `--json`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass
from typing import Any

from sample.planning.collectives import Traffic


@dataclass(frozen=True)
class Timings:
    """Seconds of repeated runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_json(self, key: str) -> dict[str, Any]:
        """The median under `key`, and the extremes and all values under longer keys."""
        return {
            key: self.median,
            f"{key}_min": min(self.seconds),
            f"{key}_max": max(self.seconds),
            f"{key}_all": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class ProgramPlan:
    """Compile times and XLA's memory plan of a program.

    Attributes:
        trace_seconds: from Python to StableHLO.
        compile_seconds: from StableHLO to machine code, without a cache.
        compile_seconds_warm: the same with JAX's persistent cache; None if not measured or not cached.
        scratch_bytes, argument_bytes: temporary memory and arguments on each device.
        total_bytes: scratch, arguments and results on each device, without results that reuse the memory of arguments.
    """

    trace_seconds: float
    compile_seconds: float
    compile_seconds_warm: float | None
    scratch_bytes: int
    argument_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class ProgramTiming:
    """Runs of a program: seconds, and the peak memory of the device (of a CPU: of the process) in bytes, after and before."""

    seconds: Timings
    peak_bytes: int
    peak_before_bytes: int  # a peak never falls: if it was as high before the runs, theirs is unknown


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """A program's operations, plan and timing.

    Attributes:
        name: `dual_step`, `decode` or `train_step`.
        plan: how it was compiled.
        flops: floating-point operations of a run; None before they are counted.
        timing: None if it was only compiled.
    """

    name: str
    plan: ProgramPlan
    flops: int | None = None
    timing: ProgramTiming | None = None

    @property
    def flops_per_second(self) -> float | None:
        return None if self.timing is None or self.flops is None else self.flops / self.timing.seconds.median

    def to_json(self) -> dict[str, Any]:
        """`NAME_flops`, `NAME_scratch_bytes`, ...; a key is absent if its value wasn't measured."""
        plan, timing = dataclasses.asdict(self.plan), self.timing
        values: dict[str, Any] = {"flops": self.flops, **plan, "flops_per_second": self.flops_per_second}
        if timing is not None:
            values |= timing.seconds.to_json("seconds")
            values |= {"peak_bytes": timing.peak_bytes, "peak_before_bytes": timing.peak_before_bytes}
        return {f"{self.name}_{key}": value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class MatmulLimit:
    """The speed of a large square matrix product on one device, an upper bound for programs.

    Attributes:
        size: side of the matrices.
        flops_per_second: speed of the fastest run.
    """

    size: int
    flops_per_second: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A step of svdjax and the same step in PyTorch, timed alternately.

    Attributes:
        relative_difference: L2 distance of v-predictions or gradients, relative to PyTorch's norm.
        relative_difference_of_loss: relative difference of a training step's losses; None for a sampling step.
        ours, official, lean: timings; lean omits the maps that the official code computes and multiplies by zero.
        threads: CPU threads of both; None on a GPU.
        peak_bytes: peak memory of the official step.
        diffusers, torch: versions of the packages.
    """

    relative_difference: float
    relative_difference_of_loss: float | None
    ours: Timings
    official: Timings
    lean: Timings
    threads: int | None
    peak_bytes: int
    diffusers: str
    torch: str

    @property
    def ratio(self) -> float:
        """Median of the official step divided by ours."""
        return self.official.median / self.ours.median

    @property
    def ratio_lean(self) -> float:
        """Median of the lean step divided by ours."""
        return self.lean.median / self.ours.median

    def to_json(self) -> dict[str, Any]:
        loss = self.relative_difference_of_loss
        return {
            **self.ours.to_json("ours_seconds"),
            **self.official.to_json("diffusers_seconds"),
            **self.lean.to_json("diffusers_lean_seconds"),
            "ratio": self.ratio,
            "ratio_lean": self.ratio_lean,
            "relative_difference": self.relative_difference,
            **({} if loss is None else {"relative_difference_of_loss": loss}),
            "threads": self.threads,
            "diffusers_peak_bytes": self.peak_bytes,
            "diffusers": self.diffusers,
            "torch": self.torch,
        }


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Settings of a measured training step; the names of the attributes are keys of `--json`.

    Attributes:
        mesh: size of each mesh axis.
        batch_size: clips over all devices.
        remat: whether activations are recomputed instead of kept.
        trained_parameters: number of trained parameters.
    """

    mesh: dict[str, int]
    batch_size: int
    remat: bool
    trained_parameters: int


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The model, clip, device and versions of a benchmark; the names of the attributes are keys of `--json`."""

    date: str
    device: str
    platform: str
    versions: dict[str, str]
    command: str
    model: str
    config: dict[str, Any]
    unet_parameters: int
    width: int
    height: int
    num_frames: int
    latent_shape: list[int]
    dtype: str
    kernels: str
    compile_only: bool

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The measured programs.

    Attributes:
        programs: first the step; for sampling also the decoder.
        matmul: speed limit of the device; None if nothing was run.
        training: settings of a training step.
        mesh: size of each mesh axis of a sampling step on several devices.
        traffic: bytes between devices in a step, if there are several devices.
        comparison: comparison with PyTorch, if requested.
    """

    programs: list[ProgramResult]
    matmul: MatmulLimit | None = None
    training: TrainingSetup | None = None
    mesh: dict[str, int] | None = None
    traffic: list[Traffic] | None = None
    comparison: Comparison | None = None

    @property
    def step(self) -> ProgramResult:
        return self.programs[0]

    @property
    def share_of_matmul(self) -> float | None:
        """Speed of the step on each device, relative to the matrix product."""
        if self.matmul is None or self.step.flops_per_second is None:
            return None
        mesh = (self.mesh or {}) if self.training is None else self.training.mesh
        devices = math.prod(mesh.values())
        return self.step.flops_per_second / devices / self.matmul.flops_per_second

    @property
    def steps_per_second(self) -> float | None:
        return None if self.step.timing is None else 1 / self.step.timing.seconds.median

    def to_json(self) -> dict[str, Any]:
        """All measurements by key; a key is absent if its value wasn't measured."""
        values: dict[str, Any] = {key: value for program in self.programs for key, value in program.to_json().items()}
        if self.training is not None:
            values |= {**dataclasses.asdict(self.training), "train_steps_per_second": self.steps_per_second}
        if self.mesh is not None:
            values["mesh"] = self.mesh
        if self.traffic is not None:
            values[f"{self.step.name}_traffic"] = [dataclasses.asdict(row) for row in self.traffic]
        if self.matmul is not None:
            values |= {"matmul_size": self.matmul.size, "matmul_flops_per_second": self.matmul.flops_per_second}
            values[f"{self.step.name}_share_of_matmul"] = self.share_of_matmul
        if self.comparison is not None:
            values["against_diffusers"] = self.comparison.to_json()
        return {key: value for key, value in values.items() if value is not None}
