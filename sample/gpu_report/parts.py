"""The parts of a report, the most valuable first, and how long each is expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from sample.gpu_report.channel import PYTORCH


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a report; it runs in its own process, which frees all memory of the device when it ends.

    Attributes:
        name: key of its results.
        title: for the user.
        module: has `measure(request, reporter)`.
        gpu_seconds: estimated duration on an H100 at full size, imports and compilation included; not measured yet.
        cpu_seconds: duration with the small preset on two CPU cores.
        packages: packages that it requires.
        gpu_only: whether it is skipped on a CPU, where it takes too long.
    """

    name: str
    title: str
    module: str
    gpu_seconds: float
    cpu_seconds: float
    packages: tuple[str, ...] = ()
    gpu_only: bool = False

    def seconds(self, gpu: bool) -> float:
        return self.gpu_seconds if gpu else self.cpu_seconds


PARTS = (
    Part(
        name="parity",
        title="parity with recorded PyTorch arrays",
        module="sample.report_parts.parity",
        gpu_seconds=60,
        cpu_seconds=40,
    ),
    Part(
        name="dual_step",
        title="sampling step, also of PyTorch eager",
        module="sample.report_parts.dual_step",
        gpu_seconds=180,
        cpu_seconds=60,
    ),
    Part(
        name="kernels",
        title="layers with XLA's and with Pallas kernels",
        module="sample.report_parts.layer_kernels",
        gpu_seconds=40,
        cpu_seconds=40,
    ),
    Part(
        name="decode",
        title="decoding, also of PyTorch eager",
        module="sample.report_parts.decoding",
        gpu_seconds=90,
        cpu_seconds=30,
    ),
    Part(
        name="clip",
        title="one clip of 10 steps from keyframes to a video",
        module="sample.report_parts.whole_clip",
        gpu_seconds=120,
        cpu_seconds=60,
    ),
    Part(
        name="train_step",
        title="training step, also of PyTorch eager",
        module="sample.report_parts.train_step",
        gpu_seconds=150,
        cpu_seconds=60,
    ),
    Part(
        name="torch_compile",
        title="PyTorch's sampling step, eager and compiled",
        module="sample.report_parts.compiled_torch",
        gpu_seconds=150,
        cpu_seconds=0,
        packages=PYTORCH,
        gpu_only=True,
    ),
    Part(
        name="dual_step_pallas",
        title="sampling step with Pallas kernels",
        module="sample.report_parts.pallas_step",
        gpu_seconds=120,
        cpu_seconds=0,
        gpu_only=True,
    ),
)
PROBE = Part(name="device", title="device", module="sample.report_parts.device", gpu_seconds=15, cpu_seconds=10)
