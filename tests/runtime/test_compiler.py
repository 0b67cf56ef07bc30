"""Options of XLA."""

import os

import jax
import pytest

from svdjax.runtime import xla_options


@pytest.fixture
def devices(monkeypatch):
    monkeypatch.setenv("NPROC", "")
    monkeypatch.delenv("NPROC")  # and what is set within is taken back
    before = jax.config.jax_num_cpu_devices
    config = type("Config", (), {"jax_num_cpu_devices": before})()
    monkeypatch.setattr(xla_options.jax, "config", config)
    return config


def test_simulated_devices_have_threads_to_spare(devices):
    devices.jax_num_cpu_devices = 2
    xla_options.spare_threads()
    assert int(os.environ["NPROC"]) > 2


def test_one_device_has_as_many_as_cores(devices):
    for devices.jax_num_cpu_devices in (-1, 1):
        xla_options.spare_threads()
        assert "NPROC" not in os.environ


def test_what_is_set_stays(devices, monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    devices.jax_num_cpu_devices = 2
    xla_options.spare_threads()
    assert os.environ["NPROC"] == "3"
