"""What is refused before a step is planned and a model is loaded, which takes minutes at full size."""

import shutil

import pytest
import training
from training import one_line, train

from svdjax.errors import InputError
from train import backward, base
from train.run import session

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(autouse=True)
def nothing_long(monkeypatch):
    """Neither planning nor loading."""
    for module, name in ((backward, "plan_training"), (backward.checkpoint, "load"), (backward.delta, "base_tensors")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    monkeypatch.setattr(base, "build", lambda run: pytest.fail("train.base built its step"))


@pytest.fixture
def refused(training_model, training_clips, out, capsys):
    """Run `train.backward`, with a plan; returns the error line."""

    def refused(*others, **options):
        assert train(training_model, training_clips, out, *others, memory=1, **options) == 2
        return one_line(capsys.readouterr().err).removeprefix("error: ")

    return refused


@pytest.fixture
def asked(monkeypatch):
    """The bytes that the command asks for on the disk, which has none of them."""
    asked = []

    def require(folder, needed, out):
        asked.append(needed)
        raise InputError("no room")

    monkeypatch.setattr(session, "require_space", require)
    return asked


def test_init_of_the_other_kind_of_rotation(refused, out, training_run):
    message = "expected weights trained with --no-rotation, as in this run"
    assert refused("--no-rotation", init=training_run / "backward").endswith(message)
    assert not out.exists()


def test_fewer_steps_than_the_run_has(refused, out, training_run):
    shutil.copytree(training_run, out)
    assert refused("--resume", steps=5) == f"--steps 5: {out} is at step 6, expected at least 6"


@pytest.mark.parametrize(
    ("steps", "keep", "count"),
    [(7, 1, 1), (8, 2, 1), (10, 9, 2), (100, 1, 1), (100, 2, 1), (100, 3, 2), (100, 9, 8)],
)
def test_no_room_for_the_checkpoints_to_come(refused, out, training_run, asked, steps, keep, count):
    """Three are there, and every second step saves one; the best and the one that is being written come on top of `--keep`."""
    shutil.copytree(training_run, out)
    assert refused("--resume", steps=steps, keep=keep) == "no room"
    assert asked == [count * sum(array.nbytes for array in training.state(out, 6).values())]


def test_no_room_for_the_checkpoints_of_a_stage(training_model, tmp_path, capsys, asked):
    for keep in (2, 4):
        words = training.arguments(training_model, "world", tmp_path / "run", num_frames=2, steps=100, keep=keep)
        assert base.main(["vae", *words]) == 2
        assert one_line(capsys.readouterr().err) == "error: no room"
    one, rest = divmod(asked[0], 2 + 2)
    assert rest == 0
    assert asked[1] == one * (4 + 2)
    weights = sum(value.nbytes for value in training.tree(training_model / "vae").values())
    assert 3 * weights <= one <= 4 * weights  # trained, their EMA, and one or two moments of each
