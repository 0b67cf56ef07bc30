"""The built package: every module and all data of the four packages are in it, and it works from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("svdjax", "convert", "train", "sample")
NEEDED = ("pyproject.toml", "README.md", "LICENSE", *PACKAGES)
BUILD = "from setuptools import build_meta; build_meta.build_wheel('wheel')"
RUN = """
import sys
import convert.svd_to_flax, sample.interpolate, svdjax, train.backward
from svdjax.loading import find_model
assert all(module.__file__.startswith(sys.argv[1]) for module in (convert, sample, svdjax, train))
print(find_model("embedded").config.unet.num_frames)
"""


def test_a_wheel_holds_everything_and_works(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "wheel").glob("*.whl")
    files = {path.relative_to(source).as_posix() for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        missing = files - set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert not missing
    installed = str(tmp_path / "installed")
    environment = os.environ | {"PYTHONPATH": installed}
    done = subprocess.run(
        [sys.executable, "-c", RUN, installed], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "8", done.stderr
