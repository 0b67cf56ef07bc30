"""Files beside weights and metrics, such as `loss.png`: if one can't be written, the run goes on with a warning."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from svdjax.errors import InputError, one_line
from svdjax.parallel import cluster


class SideFiles:
    """Prints one warning line for each file that can't be written, and none if it fails again."""

    def __init__(self) -> None:
        self._failed: set[Path] = set()

    @contextlib.contextmanager
    def or_warn(self, path: Path) -> Iterator[None]:
        """Turn any error in the block, which writes `path`, into a warning."""
        try:
            yield
        except Exception as e:  # the libraries that write these files raise many kinds of errors
            self.warn(path, e)

    def warn(self, path: Path, error: Exception) -> None:
        """Print the warning, in process 0."""
        if path in self._failed or not cluster.is_main():
            return
        self._failed.add(path)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        message = str(error) if isinstance(error, InputError) else f"{path}: can't be written: {reason}"
        tqdm.write(f"warning: {one_line(message, 400)}; training goes on", file=sys.stderr)
