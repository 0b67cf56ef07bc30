"""The parts of a report, the most valuable first, and how long each is expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from sample.gpu_report.failures import PYTORCH


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a report; it runs in its own process, which frees all memory of the device when it ends.

    Attributes:
        name: key of its results.
        title: for the user.
        module: has `measure(request, reporter)`.
        gpu_seconds: duration at full size, imports and compilation included. `parity` and `dual_step` were measured on an H200,
            which needed more than 240 s for `train_step`, and 115 for `clip`; the others are estimates.
        cpu_seconds: duration with the small preset on two CPU cores.
        packages: packages that it requires.
        gpu_only: whether it is skipped on a CPU: it would take too long, or has no meaning there.
        memory_gib: memory of the GPU that JAX may take, all of it at the start; None for most of the card, on demand.
    """

    name: str
    title: str
    module: str
    gpu_seconds: float
    cpu_seconds: float
    packages: tuple[str, ...] = ()
    gpu_only: bool = False
    memory_gib: float | None = None

    def seconds(self, gpu: bool) -> float:
        return self.gpu_seconds if gpu else self.cpu_seconds


PARTS = (
    Part(
        name="parity",
        title="parity with recorded PyTorch arrays",
        module="sample.report_parts.parity",
        gpu_seconds=75,
        cpu_seconds=40,
    ),
    Part(
        name="dual_step",
        title="sampling step, also of PyTorch eager",
        module="sample.report_parts.dual_step",
        gpu_seconds=120,
        cpu_seconds=60,
    ),
    Part(
        name="decode",
        title="decoding, also of PyTorch eager",
        module="sample.report_parts.decoding",
        gpu_seconds=100,
        cpu_seconds=30,
    ),
    Part(
        name="clip",
        title="one clip of 10 steps from keyframes to a video",
        module="sample.report_parts.whole_clip",
        gpu_seconds=180,
        cpu_seconds=60,
    ),
    Part(
        name="train_step",
        title="training step, also of PyTorch eager",
        module="sample.report_parts.train_step",
        gpu_seconds=300,
        cpu_seconds=60,
    ),
    Part(
        name="clip_12gb",
        title="one clip of 2 steps in the memory of a 12 GB card",
        module="sample.report_parts.limited_clip",
        gpu_seconds=180,
        cpu_seconds=0,
        gpu_only=True,
        memory_gib=10.4,
    ),
    Part(
        name="clip_8gb",
        title="one clip of 2 steps in the memory of an 8 GB card",
        module="sample.report_parts.limited_clip",
        gpu_seconds=180,
        cpu_seconds=0,
        gpu_only=True,
        memory_gib=6.4,
    ),
    Part(
        name="kernels",
        title="layers with XLA's and with Pallas kernels",
        module="sample.report_parts.layer_kernels",
        gpu_seconds=40,
        cpu_seconds=40,
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
