"""Refused input of `train.backward`: one line, before the long work, and no file changes."""

import json
import shutil

import numpy as np
import pytest
import svd_folders
import training
import videos
from media import open_folder, unprivileged
from training import one_line, train

from svdjax.errors import InputError
from train import backward
from train.run import run_folder

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(autouse=True)
def no_long_work(monkeypatch):
    monkeypatch.setattr(backward, "Finetuning", lambda *args: pytest.fail("training started"))


@pytest.fixture
def refused(training_model, training_clips, out, capsys):
    """Run the command, see `training.arguments`; returns the error line."""

    def refused(*others, model=training_model, data=training_clips, out=out, **options):
        assert train(model, data, out, *others, **options) == 2
        return one_line(capsys.readouterr().err).removeprefix("error: ")

    return refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": "model=2"}, "--mesh model=2: unknown axis 'model', expected data, fsdp, tensor"),
        ({"mesh": "data=3"}, "--mesh data=3: data 3 = 3, expected 1 device in total (-1 stands for the remaining devices)"),
        ({"batch_size": 3, "accumulate": 2}, "--batch-size 3: expected a multiple of data 1 x fsdp 1 x accumulate 2 = 2"),
        ({"num_frames": 9}, "none usable: 4 are too short"),
        ({"size": "33x32"}, "33x32"),
        ({"size": "big"}, "big"),
        ({"hold_out": 4, "validate_every": 2}, "--hold-out 4: "),
        ({"hold_out": 0, "validate_every": 2}, "--validate-every needs a held-out video: --hold-out is 0, expected at least 1"),
        ({"steps": 0}, "--steps is 0, expected at least 1"),
        ({"save_every": 0}, "--save-every is 0, expected at least 1"),
        ({"learning_rate": "nan"}, "--learning-rate is nan, expected a positive number"),
        ({"seed": 2**32}, "--seed is 4294967296, expected at most 4294967295"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"model": "/nowhere"}, "/nowhere: no such folder, expected a folder that convert.svd_to_flax or train.base writes"),
        ({"init": "/nowhere"}, "/nowhere: no such folder, expected a folder that train.backward writes"),
        ({"coordinator": "here:1"}, "--coordinator without --num-processes and --process-id: give all three or none"),
    ],
)
def test_options(refused, out, options, message):
    assert message in refused(**options)
    assert not out.exists()


def test_a_model_without_temporal_attention(refused, out, training_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(training_model, model)
    manifest = json.loads((model / "config.json").read_text())
    manifest["config"]["unet"]["transformer_layers_per_block"] = [0]
    (model / "config.json").write_text(json.dumps(manifest))
    line = refused(model=model)
    assert "transformer_layers_per_block is 0, expected a whole number from 1 to 16" in line
    assert not out.exists()


def test_unreadable_videos(refused, out, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").write_bytes(b"not a video")
    line = refused(data=tmp_path / "data")
    assert "1 video or folder of frames found, none usable: it is unreadable, such as a.mp4" in line
    assert not out.exists()


def test_a_folder_of_something_else(refused, out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for resume in ([], ["--resume"]):
        assert refused(*resume) == f"{out}: exists and holds no run of this command, expected a new folder"
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_file(refused, out):
    out.write_text("mine")
    assert refused() == f"{out}: is a file, expected a folder for the run"


def test_no_parent(refused, tmp_path):
    out = tmp_path / "a" / "b"
    assert refused(out=out) == f"{out}: the folder {out.parent} doesn't exist"


def test_no_permission():
    with open_folder() as folder, unprivileged(), pytest.raises(InputError) as e:
        run_folder.check_new_or_resumed(folder / "run", False)
    assert str(e.value) == f"{folder / 'run'}: no permission to write there"


def test_within_the_data(refused, tmp_path):
    data = videos.write_frames(tmp_path / "data" / "a", videos.coded_frames(4)).parent
    line = refused(data=data, out=data / "run")
    assert line.startswith(f"--out {data / 'run'}: lies in --data {data}, ")
    assert sorted(path.name for path in data.iterdir()) == ["a"]


@pytest.fixture
def existing_run(out, training_run):
    shutil.copytree(training_run, out)
    yield
    for name in ("metrics.csv", "run.json", "loss.png"):
        assert (out / name).read_bytes() == (training_run / name).read_bytes()
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["2", "4", "6"]


@pytest.mark.usefixtures("existing_run")
def test_a_run_that_is_there(refused, out):
    assert refused() == f"{out}: holds a run already; --resume continues it, another --out begins a new one"


@pytest.mark.usefixtures("existing_run")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "a run with --seed 0, not --seed 1: expected the same"),
        ({"learning_rate": 1e-3}, "a run with --learning-rate 0.0001, not --learning-rate 0.001: expected the same"),
        ({"batch_size": 2}, "a run with --batch-size 1, not --batch-size 2: expected the same"),
        ({"size": "48x48"}, "a run with --size 32x32, not --size 48x48: expected the same"),
        ({"dtype": "bfloat16"}, "a run with --dtype float32, not --dtype bfloat16: expected the same"),
        (
            {"stride": 2},
            "a run with another set of clips (--data, --hold-out, --min-motion): expected the same",
        ),
    ],
)
def test_another_setting(refused, out, options, message):
    assert refused("--resume", **options).startswith(f"{out}: is of {message}")


@pytest.mark.usefixtures("existing_run")
def test_without_rotation(refused, out):
    assert (
        refused("--resume", "--no-rotation")
        == f"{out}: is of a run with no --no-rotation, not --no-rotation: expected the same"
    )


@pytest.mark.usefixtures("existing_run")
def test_other_data(refused, out, training_clips, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(training_clips, data)
    videos.write_gif(data / "c1.gif", videos.coded_frames(6))
    assert "a run with another set of clips" in refused("--resume", data=data)


@pytest.mark.usefixtures("existing_run")
def test_another_model(refused, out, tmp_path):
    source = training.write_source(tmp_path / "svd")
    svd_folders.edit(svd_folders.weights_file(source, "unet"), lambda values: values["conv_in.bias"].add_(1))
    assert svd_folders.main([str(source), str(tmp_path / "model")]) == 0
    assert refused("--resume", model=tmp_path / "model").startswith(f"{out}: is of a run with another model (--model)")


@pytest.mark.usefixtures("existing_run")
def test_another_init(refused, out, training_run):
    assert "a run with another start (--init)" in refused("--resume", init=training_run / "backward")


@pytest.mark.usefixtures("existing_run")
def test_in_use(refused, out):
    with run_folder.locked(out):
        assert refused("--resume") == f"{out}: another process is training there: expected one at a time"


def test_a_run_of_a_newer_version(refused, out, training_run):
    shutil.copytree(training_run, out)
    (out / "run.json").write_text('{"format": "svdjax-run", "version": 9, "settings": {}}')
    assert refused("--resume").startswith(f"{out / 'run.json'}: is svdjax-run 9, expected svdjax-run 1")


def test_backward_weights_of_another_model(refused, out, tmp_path, training_run, model):
    """`model` has two levels."""
    assert "lacks" in refused(model=model, init=training_run / "backward")
    assert not out.exists()


def test_a_checkpoint_of_another_run(training_model, training_clips, out, training_run, capsys, monkeypatch):
    """Copied into the folder: whole, but of another run."""
    monkeypatch.undo()
    training.compile_once(monkeypatch)
    assert train(training_model, training_clips, out, seed=1, steps=1) == 0
    shutil.rmtree(out / "checkpoints")
    shutil.copytree(training_run / "checkpoints", out / "checkpoints")
    assert train(training_model, training_clips, out, "--resume", seed=1) == 2
    assert "checkpoints/6: is of a run with --seed 0, not --seed 1" in one_line(capsys.readouterr().err)


def test_all_tensors_at_full_size():
    """32 tensors of SVD, as in the paper: values and outputs of its 16 temporal self-attentions."""
    import jax.numpy as jnp

    from svdjax.config import UNetConfig
    from svdjax.losses import finetuning
    from svdjax.models.initialize import abstract
    from svdjax.models.svd import leaves
    from svdjax.models.unet import UNet

    unet = leaves(abstract(UNet, UNetConfig(), jnp.float32))
    names = finetuning.trained_names(unet)
    assert len(names) == 32
    places = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)] + ["mid_block.attentions.0"]
    places += [f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)]
    expected = [f"{p}.temporal_transformer_blocks.0.attn1.{k}.kernel" for p in places for k in ("to_v", "to_out")]
    assert sorted(names) == sorted(expected)
    assert sum(np.prod(unet[name].shape) for name in names) == sum(2 * w * w * n for w, n in ((320, 5), (640, 5), (1280, 6)))
