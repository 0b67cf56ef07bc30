"""`train.backward` after a failed first try, with lost files, and with files that can't be written."""

import os
import re
import resource
import shutil
import weakref

import jax
import pytest
from training import assert_same_run, losses, one_line, train

from svdjax.data import motion
from train.batches import loader
from train.run import validation
from train.run.checkpoints import Checkpoints
from train.steps.finetuning import Finetuning
from train.steps.step import Step

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = 6


def out_of_memory(self, state, batch):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")


def interrupt(self, state, batch):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("failing", "status", "resume"), [(out_of_memory, 2, []), (out_of_memory, 2, ["--resume"]), (interrupt, 130, [])]
)
def test_a_first_try_that_fails_before_a_step(run, out, training_run, capsys, monkeypatch, failing, status, resume):
    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "update", failing)
        assert run(batch_size=2, accumulate=2) == status
    assert (out / "run.json").exists()
    assert "Traceback" not in capsys.readouterr().err
    assert run(*resume) == 0
    assert_same_run(out, training_run, STEPS)


@pytest.mark.parametrize(
    ("cache", "message"),
    [("/proc/no", "the latent cache can't be created (No such file or directory)"), ("/proc", "can't be written: ")],
)
def test_a_latent_cache_that_cannot_be_written(run, out, capsys, monkeypatch, cache, message):
    monkeypatch.setattr(motion, "measure_source", lambda *args: pytest.fail("the data were read"))
    assert run(cache_latents=cache) == 2
    assert one_line(capsys.readouterr().err).startswith(f"error: --cache-latents {cache}: {message}")
    assert not out.exists()


def test_a_latent_cache_is_not_created_by_an_error(run, out, capsys):
    assert run(cache_latents=out.with_name("a") / "b", num_frames=9) == 2
    assert "none usable" in one_line(capsys.readouterr().err)
    assert not list(out.parent.iterdir())


def test_a_disk_without_room_for_a_checkpoint(run, out, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5000}))
    monkeypatch.setattr(Finetuning, "update", lambda *args: pytest.fail("training started"))
    assert run() == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"error: {out}: needs ")
    assert line.endswith(" of disk space, 4.88 KiB are free")


def test_resume_with_nothing_but_the_checkpoints(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    for name in ("metrics.csv", "run.json", "data.csv", "scan.json", "loss.png"):
        (out / name).unlink()
    shutil.rmtree(out / "tensorboard")
    shutil.rmtree(out / "backward")
    assert run("--resume", steps=8) == 0
    printed = capsys.readouterr().out
    assert "run.json: is missing or damaged" in printed
    assert "metrics.csv: is missing: continued with the rows of 0 of 6 steps" in printed
    text = (out / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in text] == ["step", "7", "8"]
    for name in ("run.json", "data.csv"):
        assert (out / name).read_bytes() == (training_run / name).read_bytes()
    for name in ("scan.json", "loss.png", "tensorboard", "backward"):
        assert (out / name).exists()


def test_a_result_whose_checkpoints_were_removed(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    shutil.rmtree(out / "checkpoints")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run("--resume") == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"error: {out}: holds the result backward but no checkpoint to resume from: expected another --out")
    assert f"--init {out / 'backward'} starts there from this result" in line
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_resume_holds_the_training_state_once(run, out, training_run, monkeypatch):
    """For large models the state takes most of a device's memory: that before the first step is gone when the saved is read."""
    shutil.copytree(training_run, out)
    begun, restored = [], []
    begin, restore = Step.begin, Checkpoints.restore

    def begin_and_watch(self, trained):
        begin(self, trained)
        begun.extend(weakref.ref(array) for array in jax.tree.leaves(self.state))

    def restore_and_look(self, checkpoint, like):
        restored.append(checkpoint.step)
        assert begun
        assert not [array for array in begun if array() is not None]
        return restore(self, checkpoint, like)

    monkeypatch.setattr(Step, "begin", begin_and_watch)
    monkeypatch.setattr(Checkpoints, "restore", restore_and_look)
    assert run("--resume") == 0
    assert restored == [STEPS]


def test_resume_after_a_spreadsheet(run, out, training_run, capsys):
    shutil.copytree(training_run, out)
    saved = "\ufeff" + (out / "metrics.csv").read_text().replace(",", ";").replace(".", ",").replace("\n", "\r\n")
    (out / "metrics.csv").write_text(saved, newline="")
    assert run("--resume") == 0
    assert (
        "saved by another program: continued with the rows of 6 of 6 steps, and kept as metrics-1.csv"
        in capsys.readouterr().out
    )
    assert_same_run(out, training_run, STEPS)
    assert (out / "metrics-1.csv").read_bytes().decode() == saved


def test_resume_does_not_read_unchanged_data(run, out, training_run, training_clips, tmp_path, capsys, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(training_clips, data)
    shutil.copytree(training_run, out)
    (out / "scan.json").unlink()  # as a run of an earlier version
    assert run("--resume", data=data) == 0
    with monkeypatch.context() as patch:
        patch.setattr("svdjax.data.scan.measure_source", lambda *args: pytest.fail("read again"))
        assert run("--resume", data=data) == 0
    content = (data / "c1.gif").read_bytes()
    times = (data / "c1.gif").stat()
    (data / "c1.gif").write_bytes(content[:-1] + b"\0")  # of the same size
    os.utime(data / "c1.gif", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run("--resume", data=data) == 2
    assert "is of a run with another set of clips" in one_line(capsys.readouterr().err)
    (data / "c1.gif").write_bytes(content)
    assert run("--resume", data=data) == 0


def test_side_files_never_end_a_run(run, out, training_run, capsys, monkeypatch):
    """A warning line for each, and the run goes on: here none of them can be written."""

    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    def wrong(*args):
        raise FloatingPointError("the frames are not finite")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", fail)
        patch.setattr(validation.video, "write_video", fail)
        patch.setattr("svdjax.data.report.write_csv", fail)
        patch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
        assert run(validate_every=3, validate_steps=1, hold_out=1) == 0
    warnings = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("warning: ")]
    left = "can't be written: No space left on device; training goes on"
    names = ["data.csv", "tensorboard", "validation/step-000003.webp", "loss.png", "validation/step-000006.webp"]
    assert sorted(warnings) == sorted(f"warning: {out / name}: {left}" for name in names)
    assert len(losses(out)) == STEPS
    assert (out / "backward").is_dir()
    with monkeypatch.context() as patch:
        patch.setattr("train.backward.generate_between", wrong)
        assert run("--resume", validate_every=1, validate_steps=1, hold_out=1, steps=7) == 0
    assert "step-000007.webp: can't be written: FloatingPointError: the frames are not finite" in capsys.readouterr().err


def test_a_full_disk_at_the_end(run, out, training_run, capsys):
    """The result can't be written: one line, and --resume writes it."""
    shutil.copytree(training_run, out)
    shutil.rmtree(out / "backward")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # as much as the test of a folder writes
    try:
        assert run("--resume") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"error: {out}: the result can't be written (")
    assert line.endswith("); the checkpoint of step 6 is complete: --resume writes it")
    assert not (out / "backward").exists()
    assert run("--resume") == 0
    assert_same_run(out, training_run, STEPS)


def test_a_decoder_that_fails_later(run, out, capsys, monkeypatch):
    """With any exception: one line that names the step and the file."""

    def fail(clip, size, fit):
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid continuation byte")

    monkeypatch.setattr(loader, "_decode", fail)
    assert run() == 2
    line = one_line(capsys.readouterr().err)
    assert re.match(r"error: step 1, c\d.gif frames \d-\d: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9", line)


def test_clips_whose_names_are_not_unicode(training_model, training_clips, out, tmp_path, capsys):
    data = tmp_path / os.fsdecode(b"d\xe9")
    data.mkdir()
    for i in range(2):
        shutil.copy(training_clips / f"c{i}.gif", data / os.fsdecode(b"caf\xe9%d.gif" % i))
    (data / os.fsdecode(b"bad\xe9\n.mp4")).write_text("?")
    options = {"validate_every": 2, "validate_steps": 1}
    assert train(training_model, data, out, steps=2, **options) == 0
    assert train(training_model, data, out, "--resume", steps=3, **options) == 0
    captured = capsys.readouterr()
    assert "warning" not in captured.err
    assert "held out: caf" in captured.out
    assert b"caf\xe91.gif" in (out / "data.csv").read_bytes()
    assert len(losses(out)) == 3
    assert (out / "validation" / "step-000002.webp").exists()
