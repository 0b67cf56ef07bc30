"""The HTML report: one file with data that a script can read, bounded in size."""

import base64
import io
import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from sample.evaluation import clip_folders, report
from sample.evaluation.keyframe_pairs import Pair
from sample.quality import catalog, html_report

SHAPE = (5, 20, 40)
TITLE = "</script><b>é"
PAIRS = [Pair(name=f"000{i}", title=TITLE, group=str(i), read=lambda: np.zeros(SHAPE)) for i in range(3)]


@pytest.fixture
def request_and_results(tmp_path):
    rng = np.random.default_rng(0)
    for method in ("truth", "a", "b"):
        (tmp_path / method).mkdir()
        for pair in PAIRS[: 2 if method == "b" else 3]:
            clip_folders.write(tmp_path / method / pair.name, rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    summary = {"mean": 1.0, "interval": [0.5, 1.5], "pairs": 3, "by_pair": [1.0, 2.0, 0.0]}
    methods = {"a": {"psnr": summary, "fvd": {"mean": 9.0, "interval": [8.0, 10.0], "pairs": 3}}}
    methods["b"] = {name: found | {"pairs": 2} for name, found in methods["a"].items()}
    methods["b"]["psnr"] = methods["b"]["psnr"] | {"by_pair": [1.0, 2.0, None]}
    options = types.SimpleNamespace(files={})
    facts = {name: catalog.describe(name, options, clips=3, num_frames=5, size=(40, 20)) for name in ("psnr", "fvd")}
    results = {"methods": methods, "pairs": PAIRS, "figures": facts, "warnings": ["FVD: few"], "reference": "a"}
    results |= {"videos": 3, "independent_groups": 3}
    settings = types.SimpleNamespace(num_frames=5)
    request = types.SimpleNamespace(out=tmp_path, shape=SHAPE, size=(40, 20), methods=("a", "b"), settings=settings)
    return request, results


def data_of(page):
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_page(request_and_results):
    page = html_report.page(request_and_results[0], PAIRS, request_and_results[1])
    assert not re.search(r"https?:|//[a-z]+\.", page.replace("base64,", ""))
    data = data_of(page)
    assert [pair["title"] for pair in data["pairs"]] == [f"{pair.name}: {TITLE}" for pair in PAIRS]
    assert data["tables"] == [["psnr"], ["fvd"]]
    assert data["by_pair"] == ["psnr"]
    assert data["methods"]["b"]["psnr"]["text"] == "1.000 (0.500 to 1.500), 2 pairs"
    assert data["notes"] == ["Warning: FVD: few."]
    assert "all 5; 3 clips of 40x20, 3 samples of 400 features" in data["definitions"][1]
    assert sorted(data["pairs"][2]["clips"]) == ["a", "truth"]


def test_pictures_hold_all_frames(request_and_results):
    request, results = request_and_results
    data = data_of(html_report.page(request, PAIRS, results))
    _, _, content = data["pairs"][1]["clips"]["b"].partition("base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)
    assert (data["columns"], data["width"], data["height"]) == (3, 40, 20)
    assert picture.shape == (40, 120, 3)
    frames = clip_folders.read(request.out / "b" / "0001", SHAPE)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        shown = picture[row * 20 : row * 20 + 20, column * 40 : column * 40 + 40]
        errors = [np.abs(shown - frame).mean() for frame in frames]
        assert np.argmin(errors) == i


def test_bounded_size(request_and_results, monkeypatch):
    request, results = request_and_results
    whole = data_of(html_report.page(request, PAIRS, results))
    sizes = [sum(map(len, pair["clips"].values())) for pair in whole["pairs"]]
    assert len(sizes) == 3
    for most, expected in ((sum(sizes), 3), (sum(sizes) - 1, 2), (1, 1)):
        monkeypatch.setattr(html_report, "MOST_BYTES", most)
        data = data_of(html_report.page(request, PAIRS, results))
        assert len(data["pairs"]) == expected
        assert f"Clips of {expected} of 3 pairs are shown" in data["facts"]


def test_note_of_one_video(request_and_results):
    results = request_and_results[1]
    assert "one video" not in report.interval_note(results)
    assert "all pairs are of one video and treated as independent" in report.interval_note(results | {"videos": 1})
