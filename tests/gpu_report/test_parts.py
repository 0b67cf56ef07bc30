"""Parts of the report that run for real: parity with the recorded arrays, and decoding of a tiny model against PyTorch."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import benchmark_model
import numpy as np
import pytest

import svdjax
from sample.benchmarking import decoding as benchmarked_decoding
from sample.gpu_report.channel import Reporter, Request
from sample.report_parts import decoding, limited_clip, parity, recording, train_step
from svdjax.devices.target import Target
from svdjax.errors import InputError


@pytest.fixture
def reported():
    """A reporter, and a function that returns all results that it was given."""
    stream = io.StringIO()

    def results() -> dict:
        messages = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert not [m for m in messages if "note" in m or "error" in m]
        return {key: value for m in messages if "results" in m for key, value in m["results"].items()}

    return Reporter(stream), results


def request(**changes) -> Request:
    values = {
        "config": benchmark_model.TINY,
        "model": "tiny",
        "size": (24, 16),
        "num_frames": 3,
        "dtype": "float32",
        "repeats": 1,
        "gpu": False,
        "memory_bytes": None,
        "folder": "",
    }
    return Request(**{**values, **changes})


def test_request_survives_the_channel():
    assert Request.from_text(request().to_text()) == request()


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
def test_decoding_against_diffusers(reported, monkeypatch, device, most):
    """Fewer frames than a chunk: the official decoding gives the same frames up to rounding; on a GPU to levels of 8 bits."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr(benchmarked_decoding, "target", lambda: device)
    reporter, results = reported
    decoding.measure(request(), reporter)
    found = results()
    against = found["against_diffusers"]
    assert against["relative_difference_of_chunks"] < most
    assert found["decode_total_bytes"] > 0
    assert found["decode_seconds"] > 0
    assert against["ratio_float32"] == pytest.approx(against["diffusers_float32_seconds"] / against["ours_seconds"])


def test_a_clip_from_a_model_in_host_memory(reported):
    """On a CPU there is no limit and no plan; a GPU test of the plans is a part of the report."""
    reporter, results = reported
    limited_clip.measure(request(), reporter)
    found = results()
    assert found["clip_limit_bytes"] is None
    assert found["clip_seconds"] > 0
    assert found["clip_peak_bytes"] > 0


BENCHMARK = """#!{python}
import json, os, sys
def write(**values):
    file = sys.argv[sys.argv.index("--json") + 1]
    open(file + ".new", "w").write(json.dumps(dict(device="a card", train_step_seconds=2.0, **values)))
    os.replace(file + ".new", file)
print("compiling ...", file=sys.stderr, flush=True)
write()
print("comparing ...", file=sys.stderr, flush=True)
if "1024x576" in sys.argv:
    sys.exit("error: out of memory")
write(against_diffusers={{"ratio": 2.0}})
"""


@pytest.mark.parametrize(("size", "error"), [((24, 16), None), ((1024, 576), "benchmark failed: out of memory")])
def test_training_step_keeps_what_came_before_a_failed_comparison(size, error, tmp_path, monkeypatch):
    """The benchmark's process is faked."""
    pytest.importorskip("diffusers")
    program = tmp_path / "python"
    program.write_text(BENCHMARK.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(train_step.sys, "executable", str(program))
    stream = io.StringIO()
    with contextlib.nullcontext() if error is None else pytest.raises(InputError, match=error):
        train_step.measure(request(size=size), Reporter(stream))
    messages = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [m["progress"] for m in messages if "progress" in m] == ["compiling", "comparing"]
    found = [m["results"] for m in messages if "results" in m]
    compared = {} if error else {"against_diffusers": {"ratio": 2.0}}
    assert found[-1] == {"train_step_seconds": 2.0, **compared}
