"""Checkpoints of a small state: kept, restored, damaged in several ways, and on a full disk."""

import json
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.errors import InputError
from train.run import complete_checkpoints
from train.run.checkpoints import Checkpoints
from train.run.complete_checkpoints import newest_complete, saved_steps
from train.steps.state import State, checksums, from_arrays, host_checksums, to_arrays

FACTS = {"mesh": {"data": 1}, "settings": {"--seed": 3}}


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    monkeypatch.setattr(complete_checkpoints.time, "sleep", lambda seconds: None)


def make_state(step):
    rng = np.random.default_rng(step)
    trained = {f"a.{i}.kernel": jnp.asarray(rng.standard_normal((48, 64), np.float32)) for i in range(2)}
    return State(jnp.int32(step), trained, {"count": jnp.int32(step), "mu": {name: 2 * x for name, x in trained.items()}})


def abstract():
    here = jnp.zeros(()).sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), make_state(0))


def save(folder, steps, keep=3, losses=None):
    with Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), FACTS, (losses or {}).get(step, 1.0))
            checkpoints.wait()
    return folder


def restored(folder):
    """The arrays of the newest complete checkpoint, and the checkpoint."""
    newest = newest_complete(folder, to_arrays(abstract()))
    assert newest is not None
    with Checkpoints(folder, 3) as checkpoints:
        return to_arrays(checkpoints.restore(newest, abstract())), newest


def assert_state(arrays, step):
    for name, value in to_arrays(make_state(step)).items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("saved") / "checkpoints", [2, 4, 6])


def test_round_trip(saved):
    arrays, checkpoint = restored(saved)
    assert (checkpoint.step, checkpoint.notes) == (6, [])
    assert FACTS.items() <= checkpoint.facts.items()
    assert_state(arrays, 6)


def test_the_latest_and_the_best_are_kept(tmp_path):
    folder = save(tmp_path / "checkpoints", range(1, 8), keep=2, losses={3: 0.25, 5: 0.5})
    assert saved_steps(folder) == [3, 6, 7]
    save(folder, [8], keep=2)  # as another process, which reads the losses from the disk
    assert saved_steps(folder) == [3, 7, 8]


def test_nothing_there(tmp_path):
    assert newest_complete(tmp_path / "checkpoints", to_arrays(abstract())) is None


def test_checksums_on_host_and_device_agree_and_notice_every_change():
    state = make_state(1)
    arrays = {name: np.asarray(value) for name, value in to_arrays(state).items()}
    sums = checksums(state)
    assert host_checksums(arrays) == sums
    name = "trained.a.1.kernel"
    number = list(arrays).index(name)
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(0, arrays[name].nbytes, 200), rng.integers(0, 8, 200), strict=True):
        data = bytearray(arrays[name].tobytes())
        data[place] ^= 1 << bit
        changed = np.frombuffer(bytes(data), np.float32).reshape(arrays[name].shape)
        assert host_checksums({name: changed}) != [sums[number]]
    swapped = arrays[name][::-1]
    assert host_checksums({name: swapped}) != [sums[number]]
    assert checksums(from_arrays(arrays, state)) == sums


def damage(path, kind):
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        rng = np.random.default_rng(len(data))
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)


@pytest.mark.parametrize("kind", ["missing", "cut", "a bit"])
def test_every_file_of_the_newest_damaged(saved, tmp_path, kind, capfd):
    """Restores step 6 exactly if the file doesn't matter, else step 4; later saves work."""
    passed_over = 0
    names = sorted(path.relative_to(saved) for path in (saved / "6").rglob("*") if path.is_file())
    for name in names:
        folder = tmp_path / "run" / "checkpoints"
        shutil.copytree(saved, folder)
        damage(folder / name, kind)
        arrays, checkpoint = restored(folder)
        assert checkpoint.step in (4, 6), name
        assert_state(arrays, checkpoint.step)
        if checkpoint.step == 4:
            passed_over += 1
            (note,) = checkpoint.notes
            assert note.startswith("the checkpoint of step 6 is damaged (")
            assert note.endswith(f"moved to {folder.parent / 'damaged' / 'step-6'}")
            assert sorted(path.name for path in (folder.parent / "damaged").iterdir()) == ["step-6"]
            save(folder, [6])
            assert_state(restored(folder)[0], 6)
        else:
            save(folder, [8])
            assert_state(restored(folder)[0], 8)
        shutil.rmtree(tmp_path / "run")
    assert passed_over >= 4
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


def test_all_damaged(saved, tmp_path):
    """One error line, and nothing is moved: the next --resume must not start from step 1."""
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, folder)
    for step in (2, 4, 6):
        shutil.rmtree(folder / str(step) / "state")
    for _ in range(2):
        with pytest.raises(InputError, match=r"checkpoints: none of 3 checkpoints can be read \(step 6: "):
            newest_complete(folder, to_arrays(abstract()))
    assert saved_steps(folder) == [2, 4, 6]


def test_the_loss_of_an_older_one_damaged(saved, tmp_path):
    """The best checkpoint can't be determined then."""
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "4" / "metrics" / "metrics").write_text("{")
    arrays, checkpoint = restored(folder)
    assert checkpoint.step == 6
    assert_state(arrays, 6)
    assert [note.split(" is damaged")[0] for note in checkpoint.notes] == ["the checkpoint of step 4"]


def test_checksums_of_another_state(saved, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, folder)
    facts = folder / "6" / "facts" / "metadata"
    content = json.loads(facts.read_text())
    content["checksums"][1] += 1
    facts.write_text(json.dumps(content))
    assert restored(folder)[1].step == 4


def test_half_written_ones_are_removed(saved, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "6").rename(folder / "6.orbax-checkpoint-tmp")
    arrays, checkpoint = restored(folder)
    assert (checkpoint.step, checkpoint.notes) == (4, [])
    assert_state(arrays, 4)
    with Checkpoints(folder, 3) as checkpoints:  # removed in the background, before anything is written
        checkpoints.save(make_state(8), FACTS, 1.0)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "8"]


@pytest.mark.parametrize("found_by", ["raise_errors", "save", "wait"])
def test_a_full_disk(tmp_path, found_by, capfd):
    """Simulated by a limit on the size of files: the write fails."""
    folder = save(tmp_path / "checkpoints", [2, 4])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        with Checkpoints(folder, 3) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            checkpoints.save(make_state(6), FACTS, 1.0)
            if found_by == "raise_errors":
                for _ in range(1000):
                    checkpoints.raise_errors()
                    jnp.zeros(()).block_until_ready()
                    resource.getrusage(resource.RUSAGE_SELF)
                checkpoints.wait()
            elif found_by == "save":
                checkpoints.save(make_state(8), FACTS, 1.0)
                pytest.fail("it was saved")
            else:
                checkpoints.wait()

    try:
        with pytest.raises(InputError, match=r"can't be written \(.*; the checkpoint of step 4 is complete; --resume"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    arrays, checkpoint = restored(folder)
    assert (checkpoint.step, checkpoint.notes) == (4, [])
    assert_state(arrays, 4)
    save(folder, [6])
    assert_state(restored(folder)[0], 6)
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


def test_a_folder_whose_name_is_not_unicode(tmp_path):
    folder = save(tmp_path / os.fsdecode(b"caf\xe9") / "checkpoints", [2, 4])
    arrays, newest = restored(folder)
    assert newest.step == 4
    assert_state(arrays, 4)
    assert sorted(os.listdir(tmp_path)) == [os.fsdecode(b"caf\xe9")]
