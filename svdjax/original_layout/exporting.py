"""Write a checkpoint as one file in Stability's original layout, which ComfyUI and generative-models load."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from svdjax.checkpoints.casting import cast_finite
from svdjax.checkpoints.checkpoint import read_info
from svdjax.checkpoints.orbax_trees import stream_tree
from svdjax.checkpoints.safetensors_writer import write_tensors
from svdjax.config import SVDConfig
from svdjax.diffusers_layout.exporting import GROUP_BYTES, Export, new_weights_file
from svdjax.diffusers_layout.name_table import TensorRow, network_table
from svdjax.models.svd import NETWORKS
from svdjax.original_layout.name_table import ENCODER, PLAIN_ENCODER, OriginalTensor, check_exists, original
from svdjax.original_layout.single_file import CONFIG
from svdjax.runtime.atomic import require_space
from svdjax.runtime.sizes import bytes_as_text
from svdjax.version import __version__


@dataclass(frozen=True)
class StoredTensor:
    """A tensor to write.

    Attributes:
        tensor: its name and shape.
        rows: the tensors that it consists of, by their part and dotted name in svdjax: one, or the three of a fused projection.
    """

    tensor: OriginalTensor
    rows: dict[tuple[int, str], TensorRow]

    def leaves(self) -> list[tuple[str, TensorRow]]:
        """Dotted names and rows in the order of the parts."""
        return [(leaf, row) for (_, leaf), row in sorted(self.rows.items(), key=lambda item: item[0])]

    def join(self, values: list[np.ndarray]) -> np.ndarray:
        """The stored values from those of `leaves`, with svdjax's axes."""
        parts = [row.layout.to_torch(value) for (_, row), value in zip(self.leaves(), values, strict=True)]
        joined = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return (joined.T if self.tensor.transposed else joined).reshape(self.tensor.shape)


def export_file(job: Export) -> None:
    """Write the file, reading and writing a few tensors at a time.

    The encoder is written twice: with its `quant_conv`, as generative-models encodes keyframes, and without, as it encodes
    training clips and ComfyUI all frames; there `quant_conv` is multiplied into the last convolution.

    Raises:
        InputError: anything wrong with the model or the output; `job.out` is then unchanged.
    """
    with new_weights_file(job) as path:
        info = read_info(job.model)
        check_exists(info.config)
        dtype = job.dtype or info.dtype
        networks = {network: _stored_tensors(network, info.config) for network in NETWORKS}
        encoder = [stored for stored in networks["vae"] if stored.tensor.name.startswith(ENCODER)]
        shapes = {stored.tensor.name: stored.tensor.shape for tensors in networks.values() for stored in tensors}
        shapes |= {_plain(name): shape for name, shape in shapes.items() if name.startswith(f"{ENCODER}encoder.")}
        count = sum(math.prod(shape) for shape in shapes.values())
        nbytes = count * np.dtype(dtype).itemsize
        require_space(path.parent, nbytes, job.out)
        metadata = {"format": "pt", "svdjax": __version__, CONFIG: json.dumps(info.config.to_json())}
        arrays = itertools.chain(
            *(_arrays(job.model / network, tensors) for network, tensors in networks.items()),
            _plain_encoder(job.model / "vae", encoder),
        )
        with tqdm(total=nbytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
            write_tensors(path, shapes, dtype, _cast(arrays, dtype, job.model, bar.update), metadata)
    print(f"{job.out}: the whole model in Stability's layout, {count:,} numbers in {dtype}, {bytes_as_text(nbytes)}")
    if info.backward is not None:
        print(f"{job.out}: without the backward weights; --only-trained writes them as another file")


def _stored_tensors(network: str, config: SVDConfig) -> list[StoredTensor]:
    """The tensors of a network to write. Parts of a fused one are read together, wherever they are in the name table."""
    joined: dict[str, StoredTensor] = {}
    for leaf, row in network_table(network, config).items():
        tensor = original(network, row.torch_name, row.torch_shape, config)
        joined.setdefault(tensor.name, StoredTensor(tensor, {})).rows[tensor.part or 0, leaf] = row
    return list(joined.values())


def _arrays(tree: Path, tensors: Sequence[StoredTensor]) -> Iterator[tuple[str, np.ndarray]]:
    """Read the tensors of a network's tree in order, float32, with their names."""
    leaves = {leaf: row for stored in tensors for leaf, row in stored.leaves()}
    expected = {leaf: jax.ShapeDtypeStruct(row.shape, np.float32) for leaf, row in leaves.items()}
    values = stream_tree(tree, expected, GROUP_BYTES, partial=True)
    for stored in tensors:
        yield stored.tensor.name, stored.join([next(values)[1] for _ in stored.rows])


def _plain_encoder(tree: Path, encoder: Sequence[StoredTensor]) -> Iterator[tuple[str, np.ndarray]]:
    """The encoder without `quant_conv`, which is linear: it is multiplied into the last convolution."""
    arrays = dict(_arrays(tree, encoder))
    weight, bias = (arrays.pop(f"{ENCODER}quant_conv.{leaf}").astype(np.float64) for leaf in ("weight", "bias"))
    last = f"{ENCODER}encoder.conv_out"
    mixed = {
        f"{last}.weight": np.einsum("ok,kiyx->oiyx", weight[:, :, 0, 0], arrays[f"{last}.weight"]),
        f"{last}.bias": weight[:, :, 0, 0] @ arrays[f"{last}.bias"] + bias,
    }
    for name, values in arrays.items():
        yield _plain(name), mixed.get(name, values).astype(np.float32)


def _plain(name: str) -> str:
    """The name of a tensor of the encoder in its copy without `quant_conv`."""
    return PLAIN_ENCODER + name.removeprefix(ENCODER)


def _cast(
    arrays: Iterable[tuple[str, np.ndarray]], dtype: str, model: Path, advance: Callable[[int], object]
) -> Iterator[np.ndarray]:
    for name, values in arrays:
        yield cast_finite(values, dtype, f"{model}: {name}")
        advance(values.size * np.dtype(dtype).itemsize)
