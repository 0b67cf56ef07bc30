"""What the frozen encoders make of every frame, computed once and kept on disk (`--cache-latents`).

Exact in what it holds: the posterior's mean and logarithm of variance, from which each step draws anew, and the image
embedding of the clean frame. The keyframes' noised latents can't be kept (their noise is new in each step), so the pixels are.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from tqdm import tqdm

from svdjax.data.readers import read_frames
from svdjax.data.sources import Clip, DataSettings, Source, fingerprint
from svdjax.errors import InputError
from svdjax.runtime.atomic import new_folder, require_space

VERSION = 1
ARRAYS = ("frames", "mean", "logvar", "image_embeds")

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class LatentCache:
    """A folder with one sub-folder a source: `frames.npy` uint8 (n, H, W, 3); `mean.npy`, `logvar.npy` float32
    (n, h, w, c); `image_embeds.npy` float32 (n, 1, d).

    The sub-folder's name tells the source's fingerprint, size, fit and key, so whatever changes is computed anew; what is
    left of older settings is never touched, and may be deleted.

    Args:
        folder: made where it doesn't exist. Several hosts need a shared one.
        settings: size and fit of the frames.
        key: tells the encoders' weights and dtype, such as a hash of them.

    Raises:
        InputError: the folder can't be made.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: DataSettings, key: str):
        self.folder = Path(folder)
        self.settings = settings
        self.key = key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise InputError(f"{folder}: no latent cache can be made there ({e.strerror or e})") from None

    def place(self, source: Source) -> Path:
        """Where a source's arrays are or will be."""
        return self.folder / fingerprint([VERSION, source.fingerprint, self.settings.size, self.settings.fit, self.key])[:32]

    def is_complete(self, source: Source) -> bool:
        """Whether all arrays are there, as long as they say they are, for every frame."""
        try:
            return all(len(self._open(source, name)) == source.frames for name in ARRAYS)
        except (OSError, ValueError, EOFError):
            return False

    def build(
        self,
        sources: Sequence[Source],
        encode: Encode,
        *,
        share: tuple[int, int] = (0, 1),
        chunk: int,
        progress: bool = True,
    ) -> int:
        """Encode what isn't there yet. Interrupted at any point, the next call goes on with the first incomplete source.

        Args:
            sources: all that will be read.
            encode: uint8 (chunk, H, W, 3) to mean and logvar, float32 (chunk, h, w, c), and image_embeds, float32
                (chunk, 1, d). Always called with exactly `chunk` frames, so that it compiles once; the last ones of a source
                are filled up with repetitions.
            share: (i, n): only sources i, i + n, ... are encoded, the part of process i of n.
            chunk: frames encoded together.
            progress: whether a bar with the time left is shown (only on a terminal).

        Returns:
            How many sources were encoded.

        Raises:
            InputError: a source can't be read, the disk is too small, or an encoding isn't finite.
        """
        index, count = share
        todo = [source for source in sources[index::count] if not self.is_complete(source)]
        if not todo:
            return 0
        for source in todo:
            self._remove_remains(source)
        width, height = self.settings.size
        blank = np.zeros((chunk, height, width, 3), np.uint8)
        per_frame = sum(array.nbytes for array in (blank, *encode(blank))) // chunk
        require_space(self.folder, per_frame * sum(source.frames for source in todo), self.folder)
        total = sum(source.frames for source in todo)
        with tqdm(total=total, desc="caching latents", unit="frame", disable=None if progress else True, leave=False) as bar:
            for source in todo:
                self._write(source, encode, chunk, bar)
        return len(todo)

    def read(self, clip: Clip) -> dict[str, np.ndarray]:
        """One clip: keyframes uint8 (2, H, W, 3) and image_embeds (2, 1, d) of its first and last frame; mean, logvar
        float32 (f, h, w, c).

        Raises:
            InputError: its source isn't in the cache, or its files are damaged.
        """
        ends = [clip.start, clip.frames[-1]]
        parts = {"frames": ends, "image_embeds": ends, "mean": clip.frames, "logvar": clip.frames}
        try:
            arrays = {name: np.array(self._open(clip.source, name)[list(numbers)]) for name, numbers in parts.items()}
        except (OSError, ValueError, EOFError, IndexError) as e:
            raise InputError(f"{self.place(clip.source)}: not a complete part of the latent cache ({e})") from None
        return {"keyframes": arrays.pop("frames"), **arrays}

    def _open(self, source: Source, name: str) -> np.ndarray:
        return np.load(self.place(source) / f"{name}.npy", mmap_mode="r")

    def _remove_remains(self, source: Source) -> None:
        """What a killed build left half-written, or a failing disk damaged."""
        place = self.place(source)
        shutil.rmtree(place, ignore_errors=True)
        for remains in self.folder.glob(f".{glob.escape(place.name)}.*"):
            shutil.rmtree(remains, ignore_errors=True)

    def _write(self, source: Source, encode: Encode, chunk: int, bar: tqdm) -> None:
        with new_folder(self.place(source), ours=lambda _: False) as folder:
            try:
                with contextlib.ExitStack() as stack:
                    files: dict[str, BinaryIO] = {}
                    for frames in self._ahead(self._chunks(source, chunk)):
                        for name, array in self._encoded(source, frames, encode, chunk).items():
                            if name not in files:
                                files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                                _write_header(files[name], array.dtype, (source.frames, *array.shape[1:]))
                            files[name].write(array.tobytes())  # not a memory map: that would crash on a full disk
                        bar.update(len(frames))
                    for file in files.values():
                        file.flush()
                        os.fsync(file.fileno())
            except OSError as e:
                raise InputError(f"{self.folder}: the latent cache can't be written ({e.strerror or e})") from None

    def _encoded(self, source: Source, frames: np.ndarray, encode: Encode, chunk: int) -> dict[str, np.ndarray]:
        count = len(frames)
        full = frames if count == chunk else np.concatenate([frames, np.repeat(frames[-1:], chunk - count, axis=0)])
        parts = dict(zip(ARRAYS[1:], (np.asarray(a, np.float32)[:count] for a in encode(full)), strict=True))
        for name, array in parts.items():
            if not np.isfinite(array).all():
                raise InputError(f"{source.path}: its encoding ({name}) isn't finite; nothing was cached for it")
        return {"frames": frames, **parts}

    def _chunks(self, source: Source, chunk: int) -> Iterator[np.ndarray]:
        """uint8 (at most chunk, H, W, 3)."""
        frames: list[np.ndarray] = []
        for frame in read_frames(source, range(source.frames), self.settings.size, self.settings.fit):
            frames.append(frame)
            if len(frames) == chunk:
                yield np.stack(frames)
                frames = []
        if frames:
            yield np.stack(frames)

    @staticmethod
    def _ahead(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same, the next one being decoded while the last one is encoded."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(next, chunks, None)
            while (frames := coming.result()) is not None:
                coming = thread.submit(next, chunks, None)
                yield frames


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
