"""`--clips NAME=DIR`: clips that other programs made, by the names of the pairs.

DIR/0003 is a folder of frames, or DIR/0003.mp4 (or another video or animation) a file, of pair 0003.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from svdjax.data.discover import Candidate, find_sources
from svdjax.data.frame_reader import Pixels
from svdjax.data.readers import reader
from svdjax.data.sources import check_folder
from svdjax.errors import InputError
from svdjax.media.fit import fit

OPTION = "--clips"
RULE = "frames of another size are stretched to the pairs' size (Lanczos); of another number, the nearest in time are taken"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")


def parse(words: Sequence[str], taken: Collection[str]) -> dict[str, Path]:
    """The folders of `--clips` by the names of the methods.

    Args:
        words: each `NAME=DIR`.
        taken: names that methods of this program, and folders of the results, have.

    Raises:
        InputError: not `NAME=DIR`, a name that is taken or can't name a folder, or a folder without clips.
    """
    folders: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise InputError(f"{OPTION} {word}: expected NAME=DIR, such as FILM=clips/film")
        if not _NAME.fullmatch(name):
            raise InputError(f"{OPTION} {word}: the name {name!r} can't name a folder, expected letters, digits and . _ + -")
        if name.lower() in {other.lower() for other in (*taken, *folders)}:
            raise InputError(f"{OPTION} {word}: the name {name} is taken, expected another name")
        folders[name] = check_folder(folder)
    return folders


def find(folder: Path, pairs: Collection[str]) -> dict[str, Candidate]:
    """The clips in a folder by the names of their pairs.

    Raises:
        InputError: two clips of one pair, or none of any pair.
    """
    names, found = set(pairs), dict[str, Candidate]()
    for candidate in find_sources(folder)[0]:
        path = PurePosixPath(candidate.name)
        name = path.name if candidate.kind == "frames" else path.stem
        if len(path.parts) > 1 or name not in names:
            continue
        if name in found:
            both = f"{found[name].name} and {candidate.name}"
            raise InputError(f"{OPTION}: {folder} has {both}, expected one clip of pair {name}")
        found[name] = candidate
    if not found:
        raise InputError(f"{OPTION}: {folder} has no clip of a pair, expected folders or videos such as {min(pairs)}.mp4")
    return found


def origin(candidate: Candidate) -> str:
    """Name and content of a clip."""
    return f"{candidate.name}, SHA-256 {reader(candidate.kind).digest(candidate.path)[1][:16]}"


def read(candidate: Candidate, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """A clip in the shape of the pairs; see `RULE`.

    The rule makes no new frames: blends of two frames would have ghosts and less detail than the method's own.

    Args:
        candidate: the clip.
        shape: frames, height and width of the pairs.

    Returns:
        Frames, uint8 (f, H, W, 3), and the clip's own shape as text if it is another.

    Raises:
        InputError: it can't be read, has fewer than two frames, or frames of different sizes.
    """
    count, height, width = shape
    own_count = sum(1 for _ in _frames(candidate))
    if own_count < 2:
        raise InputError(f"{candidate.path}: has {own_count} frames, expected at least 2, first and last keyframe included")
    clip = np.empty((*shape, 3), np.uint8)
    own_size: tuple[int, ...] | None = None
    wanted = nearest_in_time(own_count, count)
    numbered = iter(enumerate(_frames(candidate)))
    at = -1
    for i, number in enumerate(wanted):
        if number == at:  # fewer frames than the pairs have
            clip[i] = clip[i - 1]
            continue
        at, pixels = next(islice(numbered, number - at - 1, None))
        frame = pixels()
        own_size = own_size or frame.shape[:2]
        if frame.shape[:2] != own_size:
            sizes = " and ".join(f"{w}x{h}" for h, w in (own_size, frame.shape[:2]))
            raise InputError(f"{candidate.path}: has frames of {sizes}, expected one size")
        clip[i] = fit(frame, (width, height), "stretch")
    assert own_size is not None
    own = (own_count, *own_size)
    return clip, "" if own == shape else f"{own[0]} frames of {own[2]}x{own[1]}"


def _frames(candidate: Candidate) -> Iterator[Pixels]:
    return reader(candidate.kind).frames(candidate.path)


def nearest_in_time(own: int, count: int) -> list[int]:
    """For each of `count` frames the number of the nearest of `own` frames; both spans are equal. The earlier, if two are."""
    steps = count - 1
    return [-((steps - 2 * i * (own - 1)) // (2 * steps)) for i in range(count)]
