"""What lies in a data folder: videos, animations, folders of frames, and files that have nothing to do with them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from svdjax.data.animations import is_animated_webp
from svdjax.data.frame_folders import is_frame, natural_key

# Neither read nor named in the report, only counted. Everything else that is no image is tried as a video.
UNRELATED = (
    *(".txt", ".md", ".rst", ".html", ".pdf", ".log", ".srt", ".vtt", ".ass"),
    *(".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".xml", ".ini", ".db", ".parquet", ".lock"),
    *(".npy", ".npz", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".py", ".sh"),
    *(".zip", ".tar", ".gz", ".7z", ".part", ".partial", ".tmp"),
    *(".wav", ".mp3", ".flac", ".m4a", ".ogg", ".aac"),
)


@dataclass(frozen=True)
class Place:
    """A candidate source: its name relative to the data folder, its path, a key of `svdjax.data.readers.READERS`."""

    name: str
    path: str
    kind: str


def find(folder: Path) -> tuple[list[Place], int]:
    """Search a folder and its sub-folders, links followed; hidden ones are passed over.

    The images in one folder are the frames of one source, named as the folder (`.` for the data folder itself). Each other
    file is a source of its own. Natural order of names, whatever the order on disk.

    Returns:
        The sources to be tried, and how many files were ignored: hidden, or of a kind that can't be meant.
    """
    places: list[Place] = []
    ignored = _search(folder, "", {os.path.realpath(folder)}, places)
    return sorted(places, key=lambda place: (natural_key(place.name), place.kind)), ignored


def _search(folder: Path, prefix: str, entered: set[str], places: list[Place]) -> int:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # reading it will say why
        places.append(Place(prefix.rstrip("/"), str(folder), "frames"))
        return 0
    ignored, has_frames = 0, False
    for entry in entries:
        name, path = prefix + entry.name, str(folder / entry.name)
        if entry.is_dir():
            real = os.path.realpath(path)
            if not entry.name.startswith(".") and real not in entered:  # a link to a folder above has no end
                ignored += _search(Path(path), name + "/", entered | {real}, places)
        elif entry.name.startswith(".") or entry.name.lower().endswith(UNRELATED) or not entry.is_file():
            ignored += 1
        elif is_frame(path):
            has_frames = True
        elif entry.name.lower().endswith(".gif") or is_animated_webp(path):
            places.append(Place(name, path, "animation"))
        else:
            places.append(Place(name, path, "video"))
    if has_frames:
        places.append(Place(prefix.rstrip("/") or ".", str(folder), "frames"))
    return ignored
