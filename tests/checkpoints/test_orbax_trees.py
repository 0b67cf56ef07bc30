"""Orbax trees: dtypes, partial reads, and Ctrl-C during a read or write."""

from __future__ import annotations

import gc
import signal
import time

import jax
import numpy as np
import pytest

from svdjax.checkpoints import orbax_calls
from svdjax.checkpoints.orbax_trees import restore_tree, save_tree, stream_tree, tree_shapes
from svdjax.errors import InputError


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip(tmp_path, dtype):
    given = {"a.b.kernel": np.arange(6.0).reshape(2, 3).astype(dtype), "a.0.bias": np.ones(1).astype(dtype)}
    save_tree(tmp_path / "tree", given)
    shapes = tree_shapes(tmp_path / "tree")
    assert {name: (value.shape, value.dtype) for name, value in shapes.items()} == {
        name: (value.shape, value.dtype) for name, value in given.items()
    }
    for name, value in restore_tree(tmp_path / "tree", shapes).items():
        assert value.dtype == given[name].dtype
        np.testing.assert_array_equal(value, given[name])
    cast = restore_tree(tmp_path / "tree", {n: jax.ShapeDtypeStruct(v.shape, np.float32) for n, v in shapes.items()})
    assert {value.dtype for value in cast.values()} == {np.dtype(np.float32)}


def test_damaged_data_is_reported_once(tmp_path, monkeypatch, caplog):
    """As an exception: what threads and coroutines would report about it later is dropped, and nothing is logged."""
    save_tree(tmp_path / "tree", {f"layer.{i}": np.full((64, 65), i, np.float32) for i in range(3)})
    shapes = tree_shapes(tmp_path / "tree")
    late = []
    monkeypatch.setattr("sys.unraisablehook", late.append)
    orbax_calls._drop_late_errors.cache_clear()
    data = max((tmp_path / "tree").rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(bytes(20))
    for _ in range(5):
        with pytest.raises(InputError, match="tree: can't be read: ") as caught:
            restore_tree(tmp_path / "tree", shapes)
        assert "\n" not in str(caught.value)
    (tmp_path / "tree" / "_CHECKPOINT_METADATA").write_bytes(b"")
    assert tree_shapes(tmp_path / "tree").keys() == shapes.keys()
    del caught
    gc.collect()
    time.sleep(0.5)
    orbax_calls._drop_late_errors.cache_clear()  # pytest's own hook is restored
    assert not late
    assert not caplog.records


@pytest.fixture
def interruptible():
    """Python's initial handler of Ctrl-C; parallel test workers ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


class PressesCtrlC:
    """An array that presses Ctrl-C when it is used."""

    def __array__(self, dtype=None, copy=None):
        signal.raise_signal(signal.SIGINT)
        return np.ones(3, np.float32)


def test_ctrl_c_waits_for_the_tree(tmp_path, capsys, interruptible):
    with pytest.raises(KeyboardInterrupt):
        save_tree(tmp_path / "tree", {"a": PressesCtrlC(), "b": np.zeros(2, np.float32)})
    assert sorted(tree_shapes(tmp_path / "tree")) == ["a", "b"]  # written completely
    assert capsys.readouterr().err.startswith("stopping after the current read or write")
    assert signal.getsignal(signal.SIGINT) is interruptible


def test_a_second_ctrl_c_does_not_wait(tmp_path, interruptible):
    with pytest.raises(KeyboardInterrupt):
        save_tree(tmp_path / "tree", {"a": PressesCtrlC(), "b": PressesCtrlC()})
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is interruptible


def test_an_interrupted_read_is_not_reported_as_damage(tmp_path, monkeypatch):
    """Orbax wraps the interrupt in an exception of its own."""
    save_tree(tmp_path / "tree", {"a": np.zeros(2, np.float32)})
    shapes = tree_shapes(tmp_path / "tree")
    import orbax.checkpoint as ocp

    def restore(*args, **kwargs):
        try:
            raise failure
        except BaseException as e:
            raise ValueError("can't read") from e

    monkeypatch.setattr(ocp.Checkpointer, "restore", restore)
    failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        restore_tree(tmp_path / "tree", shapes)
    failure = OSError("disk")
    with pytest.raises(InputError, match=f"{tmp_path}/tree: can't be read: ValueError: can't read"):
        restore_tree(tmp_path / "tree", shapes)


def test_a_tree_that_can_not_be_written(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    def save(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED:\nNo space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", save)
    with pytest.raises(InputError, match=f"{tmp_path}/tree: can't be written: ValueError: RESOURCE_EXHAUSTED: No space") as e:
        save_tree(tmp_path / "tree", {"a": np.zeros(2, np.float32)})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("group_bytes", [1, 24, 1000])
def test_streaming_gives_every_array_in_the_order_asked_for(tmp_path, group_bytes):
    given = {name: np.full(3, i, np.float16) for i, name in enumerate("cadbe")}
    save_tree(tmp_path / "tree", given)
    expected = {name: jax.ShapeDtypeStruct((3,), np.float32) for name in given}
    streamed = list(stream_tree(tmp_path / "tree", expected, group_bytes))
    assert [name for name, _ in streamed] == list("cadbe")
    for name, value in streamed:
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, given[name].astype(np.float32), strict=True)
    with pytest.raises(InputError, match=r"tree: b is \(3,\), expected none \(1 tensors differ from config.json\)"):
        next(stream_tree(tmp_path / "tree", {name: expected[name] for name in "cade"}, group_bytes))


def test_a_part_of_a_tree(tmp_path):
    given = {name: np.full(3, i, np.float32) for i, name in enumerate("abc")}
    save_tree(tmp_path / "tree", given)
    part = {"b": jax.ShapeDtypeStruct((3,), np.float32)}
    (value,) = restore_tree(tmp_path / "tree", part, partial=True).values()
    np.testing.assert_array_equal(value, given["b"])
    with pytest.raises(InputError, match=r"tree: a is \(3,\), expected none \(2 tensors"):
        restore_tree(tmp_path / "tree", part)
    with pytest.raises(InputError, match=r"tree: d is not there, expected \(3,\) \(1 tensors"):
        restore_tree(tmp_path / "tree", {"d": part["b"]}, partial=True)
