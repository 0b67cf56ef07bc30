"""The output of a conversion: refused, replaced, or kept when a conversion stops; and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import svd_folders
from media import open_folder, unprivileged
from svd_folders import assert_holds, refused, weights_file

from convert.svd_to_flax import main
from svdjax.diffusers_layout import importing

pytestmark = pytest.mark.usefixtures("quick_shapes")


def test_overwrite_replaces_a_checkpoint(source, tmp_path):
    copy = Path(shutil.copytree(source, tmp_path / "svd"))
    out = tmp_path / "out"
    assert main([str(source), str(out)]) == 0
    before = json.loads((out / "config.json").read_text())
    svd_folders.edit(weights_file(copy, "unet"), lambda values: values["conv_in.bias"].add_(1))
    assert main([str(copy), str(out)]) == 2
    assert json.loads((out / "config.json").read_text()) == before
    assert main([str(copy), str(out), "--overwrite"]) == 0
    assert_holds(out, copy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "svd"]


@pytest.mark.parametrize(("failure", "status"), [(KeyboardInterrupt, 130), (RuntimeError, None)])
def test_a_run_that_stops_leaves_the_old_checkpoint(source, tmp_path, capsys, monkeypatch, failure, status):
    out = tmp_path / "out"
    assert main([str(source), str(out)]) == 0
    written = []

    def save_tree(path, tree):
        written.append(path)
        if len(written) == 2:
            raise failure
        path.mkdir()

    monkeypatch.setattr(importing, "save_tree", save_tree)
    capsys.readouterr()
    if status is None:
        with pytest.raises(failure):
            main([str(source), str(out), "--overwrite"])
    else:
        assert main([str(source), str(out), "--overwrite"]) == status
        assert capsys.readouterr().err == "interrupted\n"
    assert len(written) == 2
    assert_holds(out, source)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_output_exists(source, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    # refused before the source is opened
    assert refused(capsys, tmp_path / "nowhere", out) == f"{out}: exists already (--overwrite replaces it)"
    # other folders are never replaced
    (out / "precious").write_text("text")
    message = f"{out}: exists and was not written by this command: --overwrite does not replace it"
    assert refused(capsys, source, out, "--overwrite") == message
    (out / "config.json").write_text(json.dumps({"format": "something else"}))
    assert refused(capsys, source, out, "--overwrite") == message
    assert (out / "precious").read_text() == "text"
    (tmp_path / "file").write_text("text")
    assert "was not written by this command" in refused(capsys, source, tmp_path / "file", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_parent_of_output_is_missing(source, tmp_path, capsys):
    out = tmp_path / "a" / "b"
    assert refused(capsys, source, out) == f"{out}: the folder {tmp_path / 'a'} doesn't exist"
    (tmp_path / "a").write_text("a file")
    assert f"{out}: not a directory" in refused(capsys, source, out)


def test_output_without_permission(capsys):
    with open_folder() as folder:
        (folder / "svd").mkdir()
        with unprivileged():
            line = refused(capsys, folder / "svd", folder / "out")
        assert line == f"{folder / 'out'}: no permission to write there"
        assert [path.name for path in folder.iterdir()] == ["svd"]


def test_disk_too_small(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("svdjax.runtime.atomic.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 2**20))
    line = refused(capsys, source, tmp_path / "out")
    assert line == f"{tmp_path / 'out'}: needs 7.99 MiB of disk space, 1.00 MiB are free"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: SOURCE, OUT (--help lists the options)"),
        (["a", "b", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8' (choose from "),
        (["a", "b", "--over"], "unrecognized arguments: --over (--help lists the options)"),
    ],
)
def test_command_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *arguments).startswith(message)
    assert not list(tmp_path.iterdir())


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "--backward-base" in capsys.readouterr().out
