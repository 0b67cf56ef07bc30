"""The notebooks run from beginning to end, with the assertions in them, and are stored with their pictures."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 1_000_000  # bytes of a stored notebook
HEAVY = ("attention_maps",)  # public functions only, which other tests call too


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.heavy] * (path.stem in HEAVY)) for path in NOTEBOOKS],
)
def test_it_runs(path, tmp_path, monkeypatch, optimised):
    monkeypatch.setenv("XLA_FLAGS", optimised["XLA_FLAGS"])
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # the assertions hold for any number of steps
        cell.source = cell.source.replace('"steps": 10', '"steps": 2')
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size <= LARGEST


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["attention_maps", "new_fusion"]
