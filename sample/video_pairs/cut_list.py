"""`--cuts`: how scene cuts of `--data` are known."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svdjax.errors import InputError
from svdjax.media import scene_cuts
from svdjax.media.scene_cuts import DETECT

NONE = "none"
_COLUMNS = ["video", "frame"]


@dataclass(frozen=True)
class CutRule:
    """Scene cuts.

    Attributes:
        cuts: first frames of new scenes by the names of videos, or `DETECT`.
        description: for the manifest.
    """

    cuts: Mapping[str, Sequence[int]] | str
    description: str

    @property
    def videos(self) -> tuple[str, ...]:
        """Names of the videos in a list."""
        return () if isinstance(self.cuts, str) else tuple(self.cuts)


def parse(text: str) -> CutRule:
    """Parse `--cuts`: `detect`, `none`, or a CSV file with the columns video (relative to the data folder) and frame.

    Raises:
        InputError: PySceneDetect is missing, or the file isn't such a list.
    """
    if text == DETECT:
        scene_cuts.check_installed("--cuts FILE.csv, or --cuts none for videos without cuts")
        return CutRule(DETECT, scene_cuts.description())
    if text == NONE:
        return CutRule({}, NONE)
    try:
        content = Path(text).read_bytes()
    except OSError as e:
        raise InputError(f"--cuts {text}: can't be read ({e.strerror or e}), expected {DETECT}, {NONE} or a CSV file") from None
    try:
        rows = list(csv.reader(content.decode("utf-8-sig", "surrogateescape").splitlines()))
    except csv.Error as e:
        raise InputError(f"--cuts {text}: can't be read as CSV ({e})") from None
    if rows[:1] != [_COLUMNS]:
        raise InputError(
            f"--cuts {text}: begins with {','.join(*rows[:1] or [''])!r}, expected the columns {','.join(_COLUMNS)}"
        )
    cuts: dict[str, list[int]] = defaultdict(list)
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(_COLUMNS) or not re.fullmatch(r"\d{1,9}", row[1], re.ASCII):
            raise InputError(f"--cuts {text}: line {line} is {','.join(row)!r}, expected a video and the number of a frame")
        cuts[row[0]].append(int(row[1]))
    return CutRule(dict(cuts), f"list, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}")
