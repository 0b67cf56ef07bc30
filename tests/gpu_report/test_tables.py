"""The tables of the report, from results that a device could give."""

from __future__ import annotations

import pytest

from sample.gpu_report import markdown
from sample.gpu_report.results import PartResult, Results

SETUP = {
    "date": "2000-01-01T00:00:00+00:00",
    "device": "Imaginary 1",
    "platform": "gpu",
    "memory_bytes": 80 * 2**30,
    "versions": {"jax": "0"},
    "model": "m",
    "width": 8,
    "height": 8,
    "num_frames": 2,
    "dtype": "bfloat16",
}


def test_tables():
    step = {
        "dual_step_seconds": 0.5,
        "dual_step_flops_per_second": 4e14,
        "matmul_flops_per_second": 8e14,
        "matmul_size": 8192,
        "dual_step_total_bytes": 11e9,
        "dual_step_peak_bytes": 12e9,
        "dual_step_peak_before_bytes": 4e9,
        "against_diffusers": {
            "ours_seconds": 0.5,
            "diffusers_seconds": 1.5,
            "diffusers_peak_bytes": 30e9,
            "relative_difference": 1e-2,
        },
    }
    results = Results(setup=SETUP)
    results.parts["dual_step"] = PartResult(title="step", results=step)
    results.parts["torch_compile"] = PartResult(title="compiled", results={"compiled_to_eager": 0.5}, notes=["a | b"])
    text = markdown.render(results)
    assert "| sampling step | 0.500 s | 1.500 s | 3.00 | 0.750 s | 1.50 |" in text
    assert "| sampling step | 400 TFLOP/s | 50 % |" in text
    assert "| sampling step | 11.00 GB | 12.00 GB | 30.00 GB |" in text
    assert "a \\| b" in text
    step["dual_step_peak_before_bytes"] = 12e9
    assert "12.00 GB, reached before the program ran" in markdown.render(results)
    assert "| sampling step of the benchmark, both in the same dtype | - | 1.0e-02 |" in text


def test_shares_of_the_matrix_product():
    """A decoder in float32 has another limit; the training step's own counts if there is no other."""
    results = Results(setup=SETUP)
    decode = {"decode_flops_per_second": 1e14, "decode_dtype": "float32"}
    train = {"train_step_flops_per_second": 2e14, "matmul_flops_per_second": 8e14, "matmul_size": 8192}
    results.parts["decode"] = PartResult(title="decode", results=decode)
    results.parts["train_step"] = PartResult(title="train", results=train)
    text = markdown.render(results)
    assert "| matrix product, 8192x8192, bfloat16 | 800 TFLOP/s | 100 % |" in text
    assert "| decoding, float32 | 100 TFLOP/s | - |" in text
    assert "| training step | 200 TFLOP/s | 25 % |" in text
    decode["decode_dtype"] = "bfloat16"
    assert "| decoding | 100 TFLOP/s | 12 % |" in markdown.render(results)


@pytest.mark.parametrize("name", ["clip", "clip_12gb", "train_step"])
def test_peaks_of_other_parts(name):
    """Marked if planning or choosing kernels had already reached them."""
    prefix, results = name.removesuffix("_12gb"), Results(setup=SETUP)
    values = {f"{prefix}_total_bytes": 5e9, f"{prefix}_peak_bytes": 7e9, f"{prefix}_peak_before_bytes": 6e9}
    results.parts[name] = PartResult(title=name, results=values)
    assert "| 5.00 GB | 7.00 GB | - |" in markdown.render(results)
    values[f"{prefix}_peak_before_bytes"] = 7e9
    assert "| 5.00 GB | 7.00 GB, reached before the program ran | - |" in markdown.render(results)


def test_unfinished_results():
    """What a part had sent before it was ended, and the distance of a comparison at a smaller size."""
    results = Results(setup=SETUP)
    clip = {"clip_first_encode_and_sample_seconds": 9.0, "clip_first_decode_seconds": 4.0}
    results.parts["clip"] = PartResult(title="clip", results=clip)
    smaller = {"num_frames": 2, "width": 8, "height": 8, "against_diffusers": {"relative_difference": 0.2}}
    results.parts["train_step"] = PartResult(title="train", results={"train_step_compile_seconds": 3.0, "smaller": smaller})
    text = markdown.render(results)
    assert "| first clip, with compiling | 9.00 s | 4.00 s | - | - |" in text
    assert "second clip" not in text
    assert "| gradients of the training step of the benchmark, both in the same dtype | - | 2.0e-01 |" in text
    assert "| training step | - | 3.0 s | - |" in text
