"""XLA options: less memory for compiled programs, and threads for simulated CPU devices."""

from __future__ import annotations

import os

import jax

from svdjax.devices.target import target

# `compiler_options` of `jax.jit` for programs of the UNet; no effect on devices other than NVIDIA GPUs. A matrix product
# with nothing to fuse into it goes to cuBLAS, which adds bias and residual as it writes; XLA's Triton kernels add no residual.
UNET_OPTIONS: dict[str, str | bool] = {"xla_gpu_triton_gemm_any": False}


def memory_options() -> dict[str, str | bool]:
    """`compiler_options` of `jax.jit` that save memory.

    By default XLA's CPU backend orders operations for concurrency, and allocates buffers long before their use: a
    training step needed three times the memory.

    On a GPU the default order already saves memory. But XLA leaves out roundings to 16 bit between operations in float32: the
    sums that a norm reads are then kept and moved as float32, in twice the bytes. With these roundings, a transformer and three
    resnets of SVD-XT with their gradients move 10 % less, and the results are rounded to the dtypes of the program.
    """
    if target().is_cpu:
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return {"xla_allow_excess_precision": False} if target().nvidia else {}


def channels_last_options() -> dict[str, bool]:
    """`compiler_options` of `jax.jit` that keep activations channels last on every NVIDIA GPU.

    Before Hopper XLA lays out float32 convolutions channels first. The activations of the VAE's decoder were then copied to
    the other layout: its last temporal resnet needed 7.6 GB of scratch on an RTX 4090 instead of 0.2.
    """
    return {"xla_gpu_force_conv_nhwc": True} if target().nvidia else {}


def spare_threads() -> None:
    """Give XLA more threads than there are simulated CPU devices. Call this before any other use of JAX.

    XLA's CPU devices share one thread per core. A device that waits for another in a collective blocks its thread. If no
    thread is left, the other device never finishes: training with two devices on two cores hung. `NPROC`, which XLA reads, is
    not changed if it is already set.
    """
    devices: int = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]: defined at run time
    if devices > 1:
        os.environ.setdefault("NPROC", str(devices + cores()))


def cores() -> int:
    """Number of CPU cores that this process may use, which is JAX's default number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
