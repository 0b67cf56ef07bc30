"""`metrics.csv` on resume: unchanged, lost, cut, damaged, or saved by another program."""

import numpy as np
import pytest

from train.run import metrics
from train.run.metrics import Metrics
from train.run.metrics_table import StepMetrics, read

ROWS = [
    StepMetrics(step, *(float(np.float32(x)) for x in np.random.default_rng(step).uniform(0.1, 1, 3))) for step in range(1, 7)
]
TEXT = metrics.as_csv(ROWS)
HEADER, *LINES = TEXT.splitlines()


def resumed(path, done=6):
    """The rows and the note of a resumed run, and the text of the file."""
    opened = Metrics(path, done)
    opened.close()
    return opened.rows, opened.note, path.read_text()


def kept(path):
    """The content of the files that were kept under another name."""
    return [other.read_bytes() for other in sorted(path.parent.iterdir()) if other != path]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_unchanged(path):
    path.write_text(TEXT)
    assert resumed(path) == (ROWS, None, TEXT)
    assert not kept(path)


def test_rows_after_the_checkpoint_are_dropped(path):
    for tail in ("", "7,0.25,0.5,0.125", "7,0.25,0.5,0.12499999", "7,0.25,0.5,0.125\n8,0."):
        path.write_text(TEXT + tail)
        assert resumed(path) == (ROWS, None, TEXT)
        assert resumed(path, 4)[0] == ROWS[:4]
        assert not kept(path)


def test_lost(path):
    assert resumed(path) == ([], f"{path}: is missing: continued with the rows of 0 of 6 steps", HEADER + "\n")
    assert resumed(path) == ([], f"{path}: has no rows for 6 of 6 steps", HEADER + "\n")
    assert not kept(path)


def test_a_new_run(path):
    assert resumed(path, 0) == ([], None, HEADER + "\n")


def test_a_run_that_starts_again_keeps_the_old_rows(path):
    for name, text in (("metrics-1.csv", TEXT), ("metrics-2.csv", TEXT[:-3])):
        path.write_text(text)
        note = f"{path}: kept as {name}: the run starts again from step 1"
        assert resumed(path, 0) == ([], note, HEADER + "\n")
        assert path.with_name(name).read_text() == text
        assert resumed(path, 0) == ([], None, HEADER + "\n")


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 200, b"\xff\xfe", b"PK\x03\x04 a spreadsheet", b"a,b\n1,2\n"])
def test_unreadable(path, content):
    path.write_bytes(content)
    rows, note, text = resumed(path)
    assert (rows, text) == ([], HEADER + "\n")
    assert note is not None
    assert note.endswith(": continued with the rows of 0 of 6 steps, and kept as metrics-1.csv")
    assert note.isprintable()
    assert kept(path) == [content]


def test_a_folder_in_its_place(path):
    path.mkdir()
    (path / "mine").write_text("?")
    assert resumed(path)[2] == HEADER + "\n"
    assert (path.with_name("metrics-1.csv") / "mine").read_text() == "?"


def test_cut_at_any_place(path):
    """A cut number is never taken for a whole one."""
    for length in range(len(HEADER) + 1, len(TEXT)):
        path.write_text(TEXT[:length])
        rows, note, _ = resumed(path)
        whole = TEXT[:length].count("\n") - 1 + (TEXT[length] == "\n")
        assert rows == ROWS[:whole]
        assert note == (f"{path}: has no rows for {6 - whole} of 6 steps" if whole < 6 else None)
        assert not kept(path)


def table(separator=",", end="\n", quote="", number=repr, columns=(0, 1, 2, 3), names=None, order=1):
    """`ROWS` as another program may save them."""
    cells = [
        names or HEADER.split(","),
        *([number(x) for x in (row.step, row.loss, row.gradient_norm, row.sigma)] for row in ROWS[::order]),
    ]
    return end.join(separator.join(f"{quote}{line[i]}{quote}" for i in columns) for line in cells) + end


FOREIGN = {
    "line breaks of Windows": table(end="\r\n").encode(),
    "without the last line break": table(end="\r\n").rstrip().encode(),
    "a byte order mark": ("\ufeff" + TEXT).encode(),
    "quotes": table(quote='"').encode(),
    "semicolons and decimal commas": table(";", number=lambda x: repr(x).replace(".", ",")).encode(),
    "decimal commas in quotes": table(quote='"', number=lambda x: repr(x).replace(".", ",")).encode(),
    "tabs in UTF-16": table("\t", end="\r\n").encode("utf-16"),
    "other columns first": table(columns=(3, 0, 2, 1)).encode(),
    "names with spaces": table(names=[" Step", "Loss ", "Gradient_Norm", "SIGMA"]).encode(),
    "sorted by another column": table(order=-1).encode(),
    "every row twice": (TEXT + "\n".join(LINES) + "\n").encode(),
    "floating-point steps": table(number=lambda x: repr(float(x))).encode(),
    "scientific": table(number=lambda x: f"{x:.17E}").encode(),
    "blank lines": TEXT.replace("\n", "\n\n").encode() + b",,,\n",
    "another column": "\n".join(f"{line},{i}" for i, line in enumerate(TEXT.splitlines())).encode(),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_saved_by_another_program(path, content):
    path.write_bytes(content)
    rows, note, text = resumed(path)
    assert rows == ROWS
    assert text == TEXT
    told = "was saved by another program: continued with the rows of 6 of 6 steps, and kept as metrics-1.csv"
    assert note == f"{path}: {told}"
    assert kept(path) == [content]
    assert resumed(path) == (ROWS, None, TEXT)


def test_fewer_digits(path):
    """As a spreadsheet shows them: the best that is left."""
    path.write_text(table(";", number=lambda x: f"{x:.4g}"))
    rows, _, text = resumed(path)
    assert [row.loss for row in rows] == [float(f"{row.loss:.4g}") for row in ROWS]
    assert read(path).rows == rows
    assert text == metrics.as_csv(rows)


def test_some_lines_damaged(path):
    path.write_text("\n".join([HEADER, LINES[0], "?", *LINES[2:4], "5,1,2", LINES[5].replace("6", "nan", 1)]) + "\n")
    rows, note, _ = resumed(path)
    assert [row.step for row in rows] == [1, 3, 4]
    assert note is not None
    assert "has 3 lines that can't be read: continued with the rows of 3 of 6 steps, and kept as metrics-1.csv" in note


def test_later_rows_follow(path):
    opened = Metrics(path, 6)
    opened.add(StepMetrics(7, 0.5, 0.25, 0.125))
    opened.sync()
    opened.close()
    assert path.read_text() == f"{HEADER}\n7,0.5,0.25,0.125\n"
