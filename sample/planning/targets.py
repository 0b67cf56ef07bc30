"""NVIDIA GPUs to compile for: their memory, their rates, and their descriptions for XLA."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.devices.budget import RESERVED_BYTES
from svdjax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU.

    Attributes:
        title: its full name.
        capability: CUDA compute capability.
        memory_bytes: its memory as CUDA reports it: on Linux, less than the size that the vendor states.
        bandwidth: of its memory, bytes/s.
        link: bytes/s that it sends to the other GPUs of its host: NVLink, or PCIe.
        flops_per_second: dense matrix products of bfloat16 with sums in float32, FLOP/s as stated by the vendor.
        cores: number of streaming multiprocessors.
        clock_ghz: highest clock rate.
        l2_bytes: size of its L2 cache.
    """

    title: str
    capability: tuple[int, int]
    memory_bytes: int
    bandwidth: float
    link: float
    flops_per_second: float
    cores: int
    clock_ghz: float
    l2_bytes: int

    @property
    def usable_bytes(self) -> int:
        """Memory that JAX takes of it by default, see `svdjax.devices.budget.take_share`."""
        return self.memory_bytes - RESERVED_BYTES


# Sizes and rates: the descriptions in XLA's `xla/backends/gpu/target_config/specs`, NVIDIA's data sheets, and its white papers
# on GA102 and AD102. Links: NVLink 4 and 3 (half of the bidirectional rate of the data sheets); PCIe 4.0 with 16 lanes, of the
# RTX 4060 with 8. GeForce cards compute with sums in float32 at half the rate of sums in float16. Of cards that XLA doesn't
# describe, memory is what CUDA's users on Linux report: the driver keeps 0.3 to 0.4 GiB of the stated size.
CARDS = {
    "h200": Card(
        title="NVIDIA H200 141GB HBM3e",
        capability=(9, 0),
        memory_bytes=151_397_597_184,
        bandwidth=4.8e12,
        link=450e9,
        flops_per_second=989.4e12,
        cores=132,
        clock_ghz=1.98,
        l2_bytes=50 * 2**20,
    ),
    "h100": Card(
        title="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        memory_bytes=84_942_979_072,
        bandwidth=3.35232e12,
        link=450e9,
        flops_per_second=989.4e12,
        cores=132,
        clock_ghz=1.98,
        l2_bytes=50 * 2**20,
    ),
    "a100": Card(
        title="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        memory_bytes=85_100_068_864,
        bandwidth=2.03904e12,
        link=300e9,
        flops_per_second=312e12,
        cores=108,
        clock_ghz=1.41,
        l2_bytes=40 * 2**20,
    ),
    "rtx4090": Card(
        title="NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        memory_bytes=25_393_692_672,
        bandwidth=1.008e12,
        link=32e9,
        flops_per_second=165.2e12,
        cores=128,
        clock_ghz=2.52,
        l2_bytes=72 * 2**20,
    ),
    "rtx3090": Card(
        title="NVIDIA GeForce RTX 3090",
        capability=(8, 6),
        memory_bytes=int(23.6 * 2**30),
        bandwidth=936e9,
        link=32e9,
        flops_per_second=71e12,
        cores=82,
        clock_ghz=1.695,
        l2_bytes=6 * 2**20,
    ),
    "rtx4070": Card(
        title="NVIDIA GeForce RTX 4070",
        capability=(8, 9),
        memory_bytes=int(11.6 * 2**30),
        bandwidth=504e9,
        link=32e9,
        flops_per_second=58.3e12,
        cores=46,
        clock_ghz=2.475,
        l2_bytes=36 * 2**20,
    ),
    "rtx4060": Card(
        title="NVIDIA GeForce RTX 4060",
        capability=(8, 9),
        memory_bytes=int(7.63 * 2**30),
        bandwidth=272e9,
        link=16e9,
        flops_per_second=30.2e12,
        cores=24,
        clock_ghz=2.46,
        l2_bytes=24 * 2**20,
    ),
}

# Limits of an architecture: shared memory of a core and of a block at most (bytes), threads of a core, FP32 units of a core.
_LIMITS = {
    (9, 0): (233472, 232448, 2048, 128),
    (8, 0): (167936, 166912, 2048, 64),
    (8, 6): (102400, 101376, 1536, 128),
    (8, 9): (102400, 101376, 1536, 128),
}


def card(name: str) -> Card:
    """The card of `--target`.

    Raises:
        InputError: an unknown name.
    """
    try:
        return CARDS[name.lower()]
    except KeyError:
        raise InputError(f"--target {name}: unknown GPU, expected {', '.join(CARDS)}") from None


def description(card: Card) -> str:
    """A card for XLA's GPU compiler: the text of a `stream_executor.GpuTargetConfigProto`."""
    major, minor = card.capability
    core_memory, block_memory, core_threads, units = _LIMITS[card.capability]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {core_memory}
  shared_memory_per_block_optin: {block_memory}
  threads_per_core_limit: {core_threads}
  core_count: {card.cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {card.bandwidth:.0f}
  l2_cache_size: {card.l2_bytes}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {card.memory_bytes}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{
    major: {major}
    minor: {minor}
    feature_extension: {"ACCELERATED_FEATURES" if major >= 9 else "NONE"}
  }}
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  pcie_bandwidth: 34359738368
  name: "{card.title}"
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{card.title}"
"""
