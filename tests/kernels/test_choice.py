"""The choice of kernels."""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import pytest

from svdjax.devices.target import NVIDIA_GPU, Target, made_for
from svdjax.errors import InputError
from svdjax.kernels import choice
from svdjax.kernels.choice import PALLAS, XLA, kernels, using


def test_xla_by_default_and_after_the_block():
    assert kernels() == XLA
    with using(PALLAS):
        assert kernels() == PALLAS
        with using(XLA):
            assert kernels() == XLA
        assert kernels() == PALLAS
    assert kernels() == XLA
    with pytest.raises(ZeroDivisionError), using(PALLAS):
        _ = 1 / 0
    assert kernels() == XLA


def test_traces_know_their_kernels():
    chosen = jax.jit(lambda x: x + (kernels() == PALLAS))
    assert chosen(jnp.zeros(())) == 0
    with using(PALLAS):
        assert chosen(jnp.zeros(())) == 1
    assert chosen(jnp.zeros(())) == 0


def test_traces_are_kept_if_nothing_changes():
    traced = []
    chosen = jax.jit(lambda x: traced.append(x) or x)
    chosen(1)
    with using(XLA):
        chosen(1)
    assert len(traced) == 1


@pytest.mark.parametrize("device", [Target("tpu"), Target("gpu")], ids=["TPU", "GPU that is not NVIDIA's"])
def test_other_devices_are_refused(device):
    refused = pytest.raises(InputError, match=f"--kernels pallas: .* {device.platform}, expected an NVIDIA GPU")
    with made_for(device), refused, using(PALLAS):
        pass
    with made_for(NVIDIA_GPU), using(PALLAS):
        assert kernels() == PALLAS


def test_option():
    p = argparse.ArgumentParser()
    choice.add_kernels(p)
    assert p.parse_args([]).kernels == XLA
    assert p.parse_args(["--kernels", "pallas"]).kernels == PALLAS
