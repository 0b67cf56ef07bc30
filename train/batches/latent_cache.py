"""Cache of the frozen encoders' outputs for every frame, on disk (`--cache-latents`).

It holds the mean and log variance of the VAE's posterior, from which each step draws new samples, and the image embedding of
the clean frame. Keyframes get new noise before they are encoded, so their latents can't be cached. Their pixels are cached.
"""

from __future__ import annotations

import contextlib
import itertools
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
from svdjax.runtime.atomic import require_space
from svdjax.runtime.output_paths import check_writable
from train.batches.partial_folder import partial_folder, remove_abandoned

VERSION = 1
ARRAYS = ("frames", "mean", "logvar", "image_embeds")

Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


class LatentCache:
    """A folder with one sub-folder, called entry, per source.

    An entry has `frames.npy` uint8 (n, H, W, 3), `mean.npy` and `logvar.npy` float32 (n, h, w, c), and `image_embeds.npy`
    float32 (n, 1, d). Its name is a hash of the source's fingerprint, the size, the fit and the key, so a change of any of them
    creates a new entry. Entries of old settings are never changed; they may be deleted. Several runs may fill one cache at
    once: each encodes what it doesn't find, and keeps what another one was faster to write.

    Args:
        folder: created if it doesn't exist. Several hosts need a shared one.
        settings: size and fit of the frames.
        key: identifies the encoders' weights and dtype, for example a hash.

    Raises:
        InputError: the folder can't be created.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: DataSettings, key: str):
        self.folder = Path(folder)
        self.settings = settings
        self.key = key
        _create(self.folder)

    def entry(self, source: Source) -> Path:
        """The folder of a source's arrays, which may not exist yet."""
        return self.folder / fingerprint([VERSION, source.fingerprint, self.settings.size, self.settings.fit, self.key])[:32]

    def is_complete(self, source: Source) -> bool:
        """Whether all arrays exist, in files of full length and with one row per frame."""
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
        """Encode the sources that have no complete entry. After an interruption the next call encodes the remaining ones.

        Args:
            sources: all sources that will be read.
            encode: maps uint8 (chunk, H, W, 3) to mean and logvar, float32 (chunk, h, w, c), and image_embeds, float32
                (chunk, 1, d). It always gets exactly `chunk` frames, so that it compiles once: the last frame of a source is
                repeated to fill its last chunk.
            share: (i, n): encode only sources i, i + n, ..., the share of process i of n.
            chunk: number of frames encoded together.
            progress: whether to show a progress bar (only on a terminal).

        Returns:
            The number of sources encoded.

        Raises:
            InputError: a source can't be read, there is too little disk space, or an encoding is not finite.
        """
        index, count = share
        missing = [source for source in sources[index::count] if not self.is_complete(source)]
        if not missing:
            return 0
        remove_abandoned(self.folder, {self.entry(source).name for source in missing})
        width, height = self.settings.size
        blank = np.zeros((chunk, height, width, 3), np.uint8)
        per_frame = sum(array.nbytes for array in (blank, *encode(blank))) // chunk
        require_space(self.folder, per_frame * sum(source.frames for source in missing), self.folder)
        total, encoded = sum(source.frames for source in missing), 0
        with tqdm(total=total, desc="caching latents", unit="frame", disable=None if progress else True, leave=False) as bar:
            for source in missing:
                if self.is_complete(source):  # another run has made it meanwhile
                    bar.update(source.frames)
                    continue
                self._write(source, encode, chunk, bar)
                encoded += 1
        return encoded

    def read(self, clip: Clip) -> dict[str, np.ndarray]:
        """One clip: `keyframes` uint8 (2, H, W, 3) and `image_embeds` float32 (2, 1, d) of its first and last frame; `mean`
        and `logvar` float32 (f, h, w, c).

        Raises:
            InputError: its source has no complete entry.
        """
        ends = [clip.start, clip.frames[-1]]
        parts = {"frames": ends, "image_embeds": ends, "mean": clip.frames, "logvar": clip.frames}
        try:
            arrays = {name: np.array(self._open(clip.source, name)[list(numbers)]) for name, numbers in parts.items()}
        except (OSError, ValueError, EOFError, IndexError) as e:
            where = self.entry(clip.source)
            raise InputError(f"{where}: latent cache entry is missing or damaged ({e}); --resume encodes it again") from None
        return {"keyframes": arrays.pop("frames"), **arrays}

    def _open(self, source: Source, name: str) -> np.ndarray:
        path = self.entry(source) / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r")
        except SystemError:  # some releases of Python raise it if threads switch while the header is parsed
            return np.load(path, mmap_mode="r")

    def _write(self, source: Source, encode: Encode, chunk: int, bar: tqdm) -> None:
        """Encode a source and write its entry, which appears complete or not at all."""
        try:
            with partial_folder(self.entry(source)) as partial:
                self._write_arrays(partial, source, encode, chunk, bar)
                self._rename(partial, source)
        except OSError as e:
            raise InputError(f"{self.folder}: the latent cache can't be written: {e.strerror or e}") from None

    def _rename(self, partial: Path, source: Source) -> None:
        """Rename the folder of a source to its entry, unless another run has made it meanwhile."""
        entry, damaged = self.entry(source), partial.with_suffix(".damaged.partial")
        if os.path.lexists(entry) and not self.is_complete(source):
            with contextlib.suppress(OSError):  # another run has removed it
                entry.rename(damaged)  # at once, unlike its removal: no run finds a part of it
                shutil.rmtree(damaged, ignore_errors=True)
        try:
            partial.rename(entry)
        except OSError:
            if not self.is_complete(source):
                raise

    def _write_arrays(self, folder: Path, source: Source, encode: Encode, chunk: int, bar: tqdm) -> None:
        files: dict[str, BinaryIO] = {}
        with contextlib.ExitStack() as stack:
            for frames in self._prefetched(self._chunks(source, chunk)):
                for name, array in self._encoded(source, frames, encode, chunk).items():
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                        _write_header(files[name], array.dtype, (source.frames, *array.shape[1:]))
                    files[name].write(array.tobytes())  # not a memory map, which would crash on a full disk
                bar.update(len(frames))
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())

    def _encoded(self, source: Source, frames: np.ndarray, encode: Encode, chunk: int) -> dict[str, np.ndarray]:
        """The arrays of a chunk of frames by name; `InputError` if they are not finite."""
        count = len(frames)
        full = frames if count == chunk else np.concatenate([frames, np.repeat(frames[-1:], chunk - count, axis=0)])
        parts = dict(zip(ARRAYS[1:], (np.asarray(a, np.float32)[:count] for a in encode(full)), strict=True))
        for name, array in parts.items():
            if not np.isfinite(array).all():
                raise InputError(f"{source.path}: its encoding ({name}) is not finite; the source was not cached")
        return {"frames": frames, **parts}

    def _chunks(self, source: Source, chunk: int) -> Iterator[np.ndarray]:
        """The frames of a source, uint8 (at most chunk, H, W, 3)."""
        frames: list[np.ndarray] = []
        for frame in read_frames(source, range(source.frames), self.settings.size, self.settings.fit):
            frames.append(frame)
            if len(frames) == chunk:
                yield np.stack(frames)
                frames = []
        if frames:
            yield np.stack(frames)

    @staticmethod
    def _prefetched(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same chunks, with the next one decoded in a thread."""
        with ThreadPoolExecutor(1) as thread:
            upcoming = thread.submit(next, chunks, None)
            while (frames := upcoming.result()) is not None:
                upcoming = thread.submit(next, chunks, None)
                yield frames


def check_cache_folder(folder: Path) -> None:
    """Check that a latent cache can be created and written, before the long work. Changes nothing.

    Raises:
        InputError: it can't.
    """
    missing = list(itertools.takewhile(lambda path: not os.path.lexists(path), (folder.absolute(), *folder.absolute().parents)))
    try:
        _create(folder)
        check_writable(folder, f"--cache-latents {folder}")
    finally:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--cache-latents {folder}: the latent cache can't be created ({e.strerror or e})") from None


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
