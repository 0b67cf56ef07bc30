"""One network's tensors in a file that holds several networks, read as from a diffusers folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from svdjax.checkpoints.safetensors_reader import Weights


@dataclass(frozen=True)
class FilePart(Weights):
    """Tensors of one network by their names in diffusers layout; `tensors` has their shapes there and their bytes in the file.

    Attributes:
        transposed: names of tensors that the file stores with their two axes swapped.
        constants: tensors that the file doesn't hold.
    """

    transposed: frozenset[str] = frozenset()
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        if name in self.constants:
            return self.constants[name]
        values = super().read(name)
        return values.reshape(values.shape[::-1]).T if name in self.transposed else values

    def stream(self, advance: Callable[[int], object]) -> Iterator[tuple[str, np.ndarray]]:
        for name in sorted(self.tensors, key=lambda name: self.tensors[name].start):
            values = self.read(name)
            self._digests[name] = hashlib.sha256(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data).hexdigest()
            yield name, values
            advance(self.tensors[name].nbytes)

    def hashes(self, prefix: str) -> dict[str, str]:
        """One hash of all tensors, by `prefix`: the same for every file that holds these tensors. Unread tensors are read."""
        if len(self._digests) < len(self.tensors):
            for _ in self.stream(lambda _: None):
                pass
        return {prefix: hashlib.sha256(repr(sorted(self._digests.items())).encode()).hexdigest()}
