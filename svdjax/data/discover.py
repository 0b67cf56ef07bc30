"""Search of a data folder for videos, animations and folders of frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from svdjax.data.animations import is_animation
from svdjax.data.frame_folders import is_file, is_frame, natural_key

# Only counted, neither read nor named in the report. All other files that aren't images are tried as videos.
UNRELATED = (
    *(".txt", ".md", ".rst", ".html", ".pdf", ".log", ".srt", ".vtt", ".ass"),
    *(".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".xml", ".ini", ".db", ".parquet", ".lock"),
    *(".npy", ".npz", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".py", ".sh"),
    *(".zip", ".tar", ".gz", ".7z", ".part", ".partial", ".tmp"),
    *(".wav", ".mp3", ".flac", ".m4a", ".ogg", ".aac"),
)


@dataclass(frozen=True)
class Candidate:
    """A possible source that hasn't been read yet.

    Attributes:
        name: path relative to the data folder.
        path: absolute path.
        kind: a key of `svdjax.data.readers.READERS`.
    """

    name: str
    path: str
    kind: str


def find_sources(folder: Path) -> tuple[list[Candidate], int]:
    """Search a folder and its sub-folders. Links are followed, hidden files and folders skipped.

    The images in one folder are the frames of one source, which is named after the folder (`.` for the data folder itself).
    Every other file is a source of its own.

    Returns:
        The candidates in natural order of their names, independent of the order on disk; and the number of ignored files:
        hidden files, files with an ending in `UNRELATED`, and everything that is not a regular file.
    """
    candidates: list[Candidate] = []
    ignored = _search(folder, "", {os.path.realpath(folder)}, candidates)
    return sorted(candidates, key=lambda candidate: (natural_key(candidate.name), candidate.kind)), ignored


def _search(folder: Path, prefix: str, entered: set[str], candidates: list[Candidate]) -> int:
    """Append the candidates below a folder. Returns the number of ignored files."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # reading the candidate reports the reason
        candidates.append(Candidate(prefix.rstrip("/"), str(folder), "frames"))
        return 0
    ignored, has_frames = 0, False
    for entry in entries:
        name, path = prefix + entry.name, str(folder / entry.name)
        if _is_folder(entry):
            real = os.path.realpath(path)
            if not entry.name.startswith(".") and real not in entered:  # a link to a parent folder would never end
                ignored += _search(Path(path), name + "/", entered | {real}, candidates)
        elif entry.name.startswith(".") or entry.name.lower().endswith(UNRELATED) or not is_file(entry):
            ignored += 1
        elif is_frame(path):
            has_frames = True
        elif entry.name.lower().endswith((".gif", ".apng", ".avifs")) or is_animation(path):
            candidates.append(Candidate(name, path, "animation"))
        else:
            candidates.append(Candidate(name, path, "video"))
    if has_frames:
        candidates.append(Candidate(prefix.rstrip("/") or ".", str(folder), "frames"))
    return ignored


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that can't be followed
        return False
