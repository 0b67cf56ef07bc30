"""Parts of the report that run for real: parity with the recorded arrays, and decoding of a tiny model against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import svdjax
from sample.benchmarking import decoding as benchmarked_decoding
from sample.benchmarking import timing
from sample.gpu_report.channel import Request
from sample.report_parts import decoding, layer_kernels, limited_clip, parity, recording
from svdjax.devices.target import Target
from svdjax.devices.xla_options import UNET_OPTIONS


def test_request_survives_the_channel(small):
    assert Request.from_text(small().to_text()) == small()


def test_parity():
    with np.load(recording.FILE) as file:
        recorded = dict(file)
    model = svdjax.load("embedded", dtype="float32")
    found = parity.distances(model, recorded)
    assert set(found) == {"image_embeds", "image_latents", "v", "frames"}
    # rounding of float32; a wrong rotation, guidance or order of frames moves v by 1e-2 or more
    assert max(found.values()) < 3e-6


@pytest.mark.heavy
def test_parity_finds_errors():
    """Reversed forward maps, another order of frames: each moves its stage far beyond rounding."""
    with np.load(recording.FILE) as file:
        recorded = dict(file)
    recorded["image_embeds"] = recorded["image_embeds"][::-1]
    recorded["frames"] = recorded["frames"][:, ::-1]
    found = parity.distances(svdjax.load("embedded", dtype="float32"), recorded)
    assert min(found[name] for name in ("image_embeds", "v", "frames")) > 1e-3


@pytest.mark.heavy
def test_recorded_arrays_are_the_official_ones():
    pytest.importorskip("diffusers")
    with np.load(recording.FILE) as file:
        recorded = dict(file)
    fresh = recording.record()
    assert fresh.keys() == recorded.keys()
    for name, value in fresh.items():
        np.testing.assert_allclose(value, recorded[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("device", "most"), [(Target("cpu"), 1e-5), pytest.param(Target("gpu"), 2 / 255, marks=pytest.mark.heavy)]
)
def test_decoding_against_diffusers(reported, small, monkeypatch, device, most):
    """Fewer frames than a chunk: the official decoding gives the same frames up to rounding; on a GPU to levels of 8 bits."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr(benchmarked_decoding, "target", lambda: device)
    reporter, results = reported
    decoding.measure(small(), reporter)
    found = results()
    against = found["against_diffusers"]
    assert against["relative_difference_of_chunks"] < most
    assert found["decode_total_bytes"] > 0
    assert found["decode_seconds"] > 0
    assert against["ratio_float32"] == pytest.approx(against["diffusers_float32_seconds"] / against["ours_seconds"])


def test_a_clip_from_a_model_in_host_memory(reported, small):
    """On a CPU there is no limit and no plan; a GPU test of the plans is a part of the report."""
    reporter, results = reported
    limited_clip.measure(small(), reporter)
    found = results()
    assert found["clip_limit_bytes"] is None
    assert found["clip_seconds"] > 0
    assert found["clip_peak_bytes"] > 0


def test_layers_are_compiled_as_the_unet_is(small, monkeypatch):
    """A GPU may choose other kernels with other options."""
    compiled, compile_program = [], timing.compile_program

    def recorded(*args, **options):
        compiled.append(options["compiler_options"])
        return compile_program(*args, **options)

    monkeypatch.setattr(timing, "compile_program", recorded)
    values = layer_kernels._compare(small(), 8, 32)
    assert compiled == [UNET_OPTIONS] * 2
    assert values["relative_difference"] < 1e-6  # rounding of float32
