"""Measured values are kept beside the frames: a later run measures only what is new or has changed."""

import types
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from sample.encoders import packaged
from sample.evaluation import clip_folders, summary
from sample.evaluation.clip_folders import TRUTH
from sample.evaluation.figure_options import FigureOptions
from sample.evaluation.keyframe_pairs import Pair
from sample.quality import catalog, measured

SHAPE = (9, 16, 16)
PAIRS = [Pair(name=f"000{i}", title=f"clip {i}", group=f"video {i}", read=lambda: np.zeros(SHAPE)) for i in range(3)]


class OwnProcess:
    """An executor without worker processes."""

    def __init__(self, *args):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def map(self, function, jobs, chunksize):
        return map(function, jobs)


class Networks:
    """Features that need no weights: the mean of each frame."""

    calls: list[str]

    def __init__(self, options):
        pass

    def __call__(self, name, truth, frames):
        Networks.calls.append(name)
        return frames.mean((1, 2), dtype=np.float32)


@pytest.fixture
def calls(monkeypatch):
    """The clips that are measured: by simple figures as method/pair, by networks as the figure."""
    found = Networks.calls = []
    simple = measured._measure_simple

    def counted(job):
        found.append(f"{job.folder.parent.name}/{job.folder.name}")
        return simple(job)

    monkeypatch.setattr(measured, "ProcessPoolExecutor", OwnProcess)
    monkeypatch.setattr(measured, "_measure_simple", counted)
    monkeypatch.setattr(measured.networks, "Networks", Networks)
    return found


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    for method in (TRUTH, "a", "b"):
        (tmp_path / method).mkdir()
        for pair in PAIRS[: 2 if method == "b" else 3]:
            clip_folders.write(tmp_path / method / pair.name, rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    return tmp_path


def request(out, *names, methods=("a",), reference=None):
    weights = out / "weights"
    weights.write_bytes(b"weights")
    figures = FigureOptions(names=names, files={"fvd": weights}, left_out={}, html=None)
    return types.SimpleNamespace(
        out=out, shape=SHAPE, methods=methods, workers=1, figures=figures, reference=reference or methods[0]
    )


def test_only_what_is_new(run, calls):
    found = measured.measure(request(run, "flicker"), PAIRS)
    assert calls == ["a/0000", "a/0001", "a/0002"]
    assert found.names == ["psnr", "ssim", "end_error", "flicker"]
    first = found.value("a", PAIRS[1], "flicker")
    calls.clear()
    assert measured.measure(request(run, "flicker"), PAIRS).value("a", PAIRS[1], "flicker") == first
    assert calls == []
    measured.measure(request(run, "flicker", "fvd"), PAIRS)  # another figure: also of the truth
    assert calls == ["fvd"] * 6
    calls.clear()
    measured.measure(request(run, "flicker", "fvd", methods=("a", "b")), PAIRS)  # another method, which lacks a clip
    assert calls == ["b/0000", "b/0001", "fvd", "fvd"]


def test_other_weights(run, calls):
    measured.measure(request(run, "fvd"), PAIRS)
    calls.clear()
    changed = request(run, "fvd")
    other = run / "other weights"
    other.write_bytes(b"other weights")
    changed.figures = FigureOptions(names=("fvd",), files={"fvd": other}, left_out={}, html=None)
    measured.measure(changed, PAIRS)
    assert calls == ["fvd"] * 6


def test_another_version_of_a_package(run, calls, monkeypatch):
    """An update of scikit-image, and opencv-python instead of opencv-python-headless: values are measured again."""
    versions = {"scikit-image": "0.25", "opencv-python-headless": "4.10"}

    def version(package):
        if package not in versions:
            raise PackageNotFoundError
        return versions[package]

    monkeypatch.setattr(packaged.importlib.metadata, "version", version)
    measured.measure(request(run, "flicker"), PAIRS)
    keys = {catalog.key("flow_agreement", request(run, "flicker").figures)}
    calls.clear()
    versions["scikit-image"] = "0.26"
    measured.measure(request(run, "flicker"), PAIRS)
    assert calls == ["a/0000", "a/0001", "a/0002"]
    versions["opencv-python"] = versions.pop("opencv-python-headless")
    keys.add(catalog.key("flow_agreement", request(run, "flicker").figures))
    facts = catalog.describe("flow_agreement", request(run).figures, clips=3, num_frames=9, size=(16, 16))
    assert facts["package"] == "opencv-python 4.10"
    versions["opencv-python"] = "4.11"
    keys.add(catalog.key("flow_agreement", request(run, "flicker").figures))
    assert len(keys) == 3


@pytest.mark.parametrize("method", ["a", TRUTH])
def test_changed_frames(method, run, calls):
    """A changed frame of the clip or of its truth."""
    before = measured.measure(request(run, "flicker"), PAIRS).value("a", PAIRS[1], "flicker")
    calls.clear()
    (run / method / "0001" / "0003.png").write_bytes((run / "b" / "0001" / "0004.png").read_bytes())
    after = measured.measure(request(run, "flicker"), PAIRS).value("a", PAIRS[1], "flicker")
    assert calls == ["a/0001"]
    assert after != before


def test_damaged_values(run, calls):
    measured.measure(request(run, "flicker"), PAIRS)
    calls.clear()
    file = run / "a" / "0002" / measured.FILE
    file.write_bytes(file.read_bytes()[:100])
    measured.measure(request(run, "flicker"), PAIRS)
    assert calls == ["a/0002"]


def test_summary(run, calls):
    """What each figure is, its value without the missing clip, and the warning of few clips."""
    asked = request(run, "flicker", "fvd", methods=("a", "b"))
    found = summary.summarise(asked, PAIRS, measured.measure(asked, PAIRS))
    assert list(found["figures"]) == ["psnr", "ssim", "end_error", "flicker", "fvd"]
    assert found["methods"]["a"]["fvd"]["pairs"] == 3
    assert found["methods"]["b"]["psnr"]["pairs"] == found["methods"]["b"]["psnr"]["difference"]["pairs"] == 2
    assert found["methods"]["b"]["psnr"]["by_pair"][2] is None
    assert found["figures"]["fvd"]["weights_sha256"]
    assert len(found["warnings"]) == 1
    other = summary.summarise(
        request(run, methods=("a", "b"), reference="b"), PAIRS, measured.measure(request(run, methods=("a", "b")), PAIRS)
    )
    assert (found["reference"], other["reference"]) == ("a", "b")
    assert list(other["methods"]) == ["a", "b"]
    assert "difference" not in other["methods"]["b"]["psnr"]
    mine, its = (each["methods"][name]["psnr"]["difference"] for each, name in ((other, "a"), (found, "b")))
    assert mine["mean"] == pytest.approx(-its["mean"])
