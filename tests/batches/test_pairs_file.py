"""`--pairs`: rows are command lines, and every mistake is one line with the row's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sample import interpolation_options
from sample.batches import pairs_file
from svdjax.errors import InputError


def read(path: Path, text: str | bytes, *words: str):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    parser = interpolation_options.parser()
    return pairs_file.read(path, parser, parser.parse_args([*words, "--pairs", str(path)]))


def test_rows_are_command_lines(tmp_path):
    text = "\ufefffirst,last,output,seed,guidance,keep_keyframes,Sheet,method\r\n"
    text += 'a.png,"b, ""c"".png",out/,3,1 2.5,yes,s.png,\r\n\r\n/a.png,/b.png,c.mp4,,,no\r\n'
    one, two = read(tmp_path / "p.csv", text, "--seed", "7", "--keep-keyframes", "--steps", "9")
    assert one.args is not None
    assert one.args.keyframes == [f"{tmp_path}/a.png", f'{tmp_path}/b, "c".png']
    assert (one.args.out, one.args.sheet) == (f"{tmp_path}/out/", tmp_path / "s.png")
    assert (one.args.seed, one.args.guidance, one.args.keep_keyframes, one.args.steps) == (3, [1.0, 2.5], True, 9)
    assert (one.args.method, one.label) == (None, f"{tmp_path}/p.csv, row 2")
    assert two.args is not None
    assert two.args.keyframes == ["/a.png", "/b.png"]
    assert (two.args.seed, two.args.guidance, two.args.keep_keyframes, two.args.sheet) == (7, None, False, None)
    assert two.label.endswith("row 4")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(tmp_path, delimiter):
    (row,) = read(tmp_path / "p.csv", "first,last,output,guidance\na,b,c,1 3\n".replace(",", delimiter))
    assert row.args is not None
    assert row.args.guidance == [1, 3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,c,x,", "argument --seed: invalid int value: 'x'"),
        ("a,b,c,,ja", "loop is 'ja', expected yes or no"),
        ("a,,c", "no last, expected a path"),
        ("a,b,c,1,no,2", "6 cells, expected 5, as many as columns"),
        ("a,b\0,c", "is not text"),
        (f"{'n' * 300},b,c", "file name too long"),
    ],
)
def test_a_bad_row_is_an_error_of_its_own(tmp_path, row, message):
    text = f"first,last,output,seed,loop\n{row}\nd,e,f\n"
    if "\0" in row:
        with pytest.raises(InputError, match=message):
            read(tmp_path / "p.csv", text)
        return
    bad, good = read(tmp_path / "p.csv", text)
    assert bad.args is None
    assert bad.label.endswith("p.csv, row 2")
    assert message in bad.error
    assert "--help" not in bad.error
    assert good.args is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column first, expected first, last, output in its first row"),
        ("first,last\na,b\n", "no column output"),
        ("first,last,output\n\n", "has no rows below the names of its columns"),
        ("first,last,output,seed,seed\n", "column seed is there twice"),
        ("first,last,output,sed\n", "unknown column 'sed', expected first, last, output and any of method, sheet, num-frames"),
        ("first,last,output,model\n", "model is an option of the whole run"),
        ("first,last,output,process-id\n", "process-id is an option of the whole run"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not text"),
    ],
)
def test_refused_tables(tmp_path, text, message):
    with pytest.raises(InputError, match=re.escape(f"--pairs {tmp_path}/p.csv: ") + ".*" + re.escape(message)):
        read(tmp_path / "p.csv", text)


def test_a_table_that_is_not_there(tmp_path):
    parser = interpolation_options.parser()
    with pytest.raises(InputError, match="can't be read"):
        pairs_file.read(tmp_path, parser, parser.parse_args([]))


def test_every_option_is_a_column_or_one_of_the_run():
    """A new option must be put on one side: in `_OF_THE_RUN` it can't vary; outside, a row with another value is wrong."""
    options = {name.removeprefix("--") for name in interpolation_options.parser()._option_string_actions if name[:2] == "--"}
    columns = options - pairs_file._OF_THE_RUN
    assert columns == {
        *("num-frames", "size", "fit", "steps", "seed", "fps", "motion-bucket-id", "noise-aug-strength", "guidance"),
        *("guidance-steps", "schedule", "deep-every", "decode-chunk", "fusion", "recurrence", "recurrence-ratio", "method"),
        *("prefix", "prefix-steps", "prefix-repeats", "playback-fps", "rate", "loop", "keep-keyframes", "sheet", "noise"),
        "save-latents",
    }
