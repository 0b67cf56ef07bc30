"""Threads of simulated CPU devices."""

import os

import jax
import pytest

from svdjax.devices import xla_options


@pytest.fixture
def devices(monkeypatch):
    monkeypatch.setenv("NPROC", "")
    monkeypatch.delenv("NPROC")  # also restores the variable after the test sets it
    config = type("Config", (), {"jax_num_cpu_devices": jax.config.jax_num_cpu_devices})()
    monkeypatch.setattr(xla_options.jax, "config", config)
    return config


def test_simulated_devices_have_spare_threads(devices):
    devices.jax_num_cpu_devices = 2
    xla_options.spare_threads()
    assert int(os.environ["NPROC"]) > 2


def test_one_device_has_one_thread_per_core(devices):
    for devices.jax_num_cpu_devices in (-1, 1):
        xla_options.spare_threads()
        assert "NPROC" not in os.environ


def test_a_set_number_is_not_changed(devices, monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    devices.jax_num_cpu_devices = 2
    xla_options.spare_threads()
    assert os.environ["NPROC"] == "3"
