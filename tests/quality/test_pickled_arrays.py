"""Pickles of arrays are read as data; anything else is refused and never runs."""

import os
import pickle

import numpy as np
import pytest
import torch

from sample.encoders import packaged, pickled_arrays
from svdjax.errors import InputError


class Malicious:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays(protocol):
    tree = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": [np.array(1), "text", 2.5]}
    found = pickled_arrays.load(pickle.dumps(tree, protocol), "file")
    np.testing.assert_array_equal(found["a"]["kernel"], tree["a"]["kernel"])
    assert found["a"]["kernel"].dtype == np.float32
    assert found["b"][1:] == ["text", 2.5]


def test_code_does_not_run(tmp_path):
    content = pickle.dumps({"kernel": np.zeros(2), "more": Malicious(tmp_path / "made")}, 4)
    with pytest.raises(InputError, match=r"^file: holds the name (posix|nt)\.mkdir, expected a pickle with NumPy arrays only$"):
        pickled_arrays.load(content, "file")
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # the pickle is harmful
    assert (tmp_path / "made").exists()


def test_code_in_a_pytorch_file_does_not_run(tmp_path):
    torch.save({"kernel": torch.zeros(2), "more": Malicious(tmp_path / "made")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"weights\.pth: can't be read \(.{1,80}\), expected a PyTorch state dictionary$"):
        packaged.torch_arrays(tmp_path / "weights.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content", [pickle.dumps(np.array([os.mkdir], object), 4), pickle.dumps(getattr, 4), b"no pickle", b""], ids=str
)
def test_refused(content):
    with pytest.raises(InputError, match=r"^file: holds "):
        pickled_arrays.load(content, "file")
